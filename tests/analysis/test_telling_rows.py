"""Rows that tell what all rows of a tile have: against all rows, and against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import closed_runs, make_plan
from flexdsl.analysis.closed_runs import Ends
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.strided import derive_form
from flexdsl.analysis.telling_rows import telling_rows
from flexdsl.analysis.values import bind
from support.masks import Mask, Table, both, either, maximum, states_of

LENGTH = 24

# Of tables `a`, `c` of two batches and their rows, and `i` of rows: what a row has by itself.
MASKS = {
    "stays": lambda a, c, i: lambda b, h, q, kv: both(kv >= a[b, q], kv < c[b, q]),
    "grows": lambda a, c, i: lambda b, h, q, kv: both(kv >= a[b, q], kv <= q),
    "shrinks": lambda a, c, i: lambda b, h, q, kv: both(kv >= q, kv < c[b, q]),
    "opens": lambda a, c, i: lambda b, h, q, kv: both(kv >= a[b, q] - q, kv < c[b, q] + q),
    "moves": lambda a, c, i: lambda b, h, q, kv: both(kv >= maximum(a[b, q], q - 5), kv <= q),
    "of an index": lambda a, c, i: lambda b, h, q, kv: both(kv >= a[b, i[q]], kv < c[b, i[q]]),
    "next": lambda a, c, i: lambda b, h, q, kv: both(kv >= a[b, q], kv < a[b, q + 1]),
    "a product": lambda a, c, i: (
        lambda b, h, q, kv: both(kv >= q * (a[b, q + 1] - a[b, q]), kv < 12)
    ),
    "two": lambda a, c, i: (
        lambda b, h, q, kv: either(
            both(kv >= a[b, q], kv <= q), both(kv >= c[b, q], kv < c[b, q] + 7)
        )
    ),
    "two ways": lambda a, c, i: (
        lambda b, h, q, kv: either(both(kv >= a[b, q], kv <= q), both(kv >= q, kv < c[b, q]))
    ),
}
STEPS = st.lists(st.tuples(st.integers(0, LENGTH), st.integers(1, 12)), min_size=4, max_size=LENGTH)


def line(steps: list[tuple[int, int]]) -> Any:
    """Values that stay for some rows each: [LENGTH + 1]."""
    values, counts = zip(*steps, strict=True)
    return np.resize(np.repeat(values, counts), LENGTH + 1)


def mask_of(name: str, lines: list[Any]) -> Mask:
    tables = (
        Table("a", np.stack(lines[:2])),
        Table("c", np.stack(lines[2:4])),
        Table("i", lines[4]),
    )
    return Mask(MASKS[name](*tables), {}, tables)


LINES = st.lists(STEPS.map(line), min_size=5, max_size=5)
TILES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("name", MASKS)
@given(lines=LINES, tile=TILES)
def test_whatever_is_loaded_the_plan_is_brute_force(name, lines, tile):
    mask = mask_of(name, lines)
    plan = make_plan(mask.program(), LENGTH, LENGTH, batch=2, tile=tile)
    dense = mask.dense(2, 1, LENGTH, LENGTH, 0)
    np.testing.assert_array_equal(plan.to_dense(), states_of(dense, tile))
    np.testing.assert_array_equal(plan.transposed().to_dense(), states_of(dense, tile))
    assert plan.pairs == dense.sum()


@pytest.mark.parametrize("name", MASKS)
@given(lines=LINES, size=st.integers(1, 9), offset=st.integers(0, 5))
def test_they_have_what_all_rows_have(name, lines, size, offset):
    """The extremes of each interval, and every position of it that some row of a tile has."""
    program = mask_of(name, lines).program()
    rows = LENGTH - offset
    grid = Grid(rows, LENGTH, (size, 8), offset, 2, 1)
    bindings = bind(program.values, program.expr)
    prover = Prover("q", grid, bindings)
    ends = Ends(derive_form(program.expr, "kv", prover), grid, bindings)
    for n, interval in enumerate(ends.form.intervals):
        told = telling_rows((interval,), prover, size)
        if told is None:
            assert name in ("moves", "a product")  # of a factor whose sign is not known
            continue
        assert (np.diff(told) >= 0).all() and told[0] >= 0 and told[-1] < rows
        for b in (0, 1):
            low, high = (
                x[:, n] for x in ends.of_rows(np.array(b), np.array(0), np.arange(rows) + offset)
            )
            held = (low[:, None] <= np.arange(LENGTH)) & (np.arange(LENGTH) < high[:, None])
            for first in range(0, rows, size):
                here = np.arange(first, min(first + size, rows))
                chosen = np.intersect1d(told, here)
                np.testing.assert_array_equal(held[here].any(0), held[chosen].any(0))
                assert low[here].max() == low[chosen].max()
                assert high[here].min() == high[chosen].min()


def test_two_intervals_that_grow_and_shrink_are_not_told_together():
    stay = line([(3, 5), (9, 20), (4, 30)])
    program = mask_of("two ways", [stay] * 5).program()
    bindings = bind(program.values, program.expr)
    prover = Prover("q", Grid(LENGTH, LENGTH, (8, 8), 0, 2, 1), bindings)
    intervals = derive_form(program.expr, "kv", prover).intervals
    assert len(intervals) == 2
    assert all(telling_rows((interval,), prover, 8) is not None for interval in intervals)
    assert telling_rows(intervals, prover, 8) is None


@pytest.mark.parametrize(
    ("sizes", "kind"), [([4096, *[2048] * 30], "closed-form"), ([4000, *[1999] * 30], "table")]
)
def test_few_rows_are_evaluated_where_little_changes(sizes, kind, monkeypatch):
    evaluated = []
    right = closed_runs.Ends.evaluate

    def spy(ends, exprs, variables):
        evaluated.append(np.broadcast(*variables.values()).size)
        return right(ends, exprs, variables)

    monkeypatch.setattr(closed_runs.Ends, "evaluate", spy)
    length = sum(sizes)
    plan = fx.plan(stdlib.shared_prefix(sizes, [0] * len(sizes)), length, length)
    assert plan.kind == kind and 0 < sum(evaluated) < 16 * plan.q_tiles < length // 4
