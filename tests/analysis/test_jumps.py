"""Where quotients and remainders jump: found by form, against looking at every position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl import stdlib
from flexdsl.analysis import make_plan, subdivide
from flexdsl.analysis.grid import Rects
from flexdsl.analysis.jumps import Jump, first_jump, jumps_of
from flexdsl.analysis.subdivide import decide
from flexdsl.ir import Op, apply, const, var
from support.masks import Mask, both, either

Q = var("q")
positions = st.integers(0, 60)


def number(op: Op, x, n):
    return apply(op, x, const(n))


@given(st.integers(2, 9), st.integers(2, 9), st.integers(-20, 20), st.integers(-5, 5))
def test_a_jump_is_where_a_rounded_number_changes_otherwise_than_by_one(n, m, c, d):
    outer = number(Op.FLOORDIV, number(Op.ADD, Q, c), n)
    mask = apply(Op.LT, number(Op.MOD, number(Op.ADD, outer, d), m), const(1))
    kept = d if d % m else 0  # multiples of m are no part of a remainder by m
    assert set(jumps_of(mask, "q")) == {Jump(n, c), Jump(n * m, c + kept * n)}
    assert jumps_of(mask, "kv") == []
    x = np.arange(60)
    block = ((x + c) // n + d) // m
    for jump, value in ((Jump(n, c), (x + c) // n), (Jump(n * m, c + d * n), block)):
        jumps = (x[1:] + jump.phase) % jump.period == 0
        np.testing.assert_array_equal(jumps, value[1:] != value[:-1])


def test_other_numbers_have_no_known_jump():
    for x in (
        number(Op.MUL, Q, 2),
        apply(Op.NEG, Q),
        apply(Op.ADD, Q, var("kv")),
        apply(Op.ABS, Q),
    ):
        assert jumps_of(apply(Op.EQ, number(Op.MOD, x, 5), const(0)), "q") == []
    assert jumps_of(apply(Op.EQ, number(Op.MOD, Q, -5), const(0)), "q") == []


@given(
    st.lists(st.builds(Jump, st.integers(2, 30), st.integers(-9, 30)), max_size=3),
    st.integers(0, 50),
    st.lists(st.tuples(positions, st.integers(1, 40)), min_size=1, max_size=5),
)
def test_the_first_jump_is_inside_its_range(jumps, offset, ranges):
    jumps = sorted(jumps, key=lambda jump: -jump.period)
    start, length = (np.array(x) for x in zip(*ranges, strict=True))
    stop = start + length
    found = first_jump(jumps, offset, start, stop)
    for first, last, at in zip(start, stop, found, strict=True):
        known = [j for j in jumps if j.period > length.max() // 4]
        inside = [
            [x for x in range(first + 1, last) if (x + offset + j.phase) % j.period == 0]
            for j in known
        ]
        assert at == next((xs[0] for xs in inside if xs), last)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(5, 30), st.integers(0, 9))
def test_rectangles_are_decided_exactly(rows, columns, period, q_offset):
    mask = Mask(
        lambda b, h, q, kv: either(
            both(q % period < 3, kv % period >= 4), abs(q % period - (kv + 7) % period) < 2
        )
    )
    scene = make_plan(mask.program(), rows, columns, q_offset=q_offset).scene
    zero = np.zeros(1, np.int64)
    rect = Rects(zero, zero, zero, zero + rows, zero, zero + columns)
    has_true, has_false = decide(scene, rect)
    dense = mask.dense(1, 1, rows, columns, q_offset)
    assert (bool(has_true[0]), bool(has_false[0])) == (dense.any(), not dense.all())


def test_tiles_of_unlike_periods_are_seldom_evaluated(monkeypatch):
    evaluated = []
    plain = subdivide._leaves
    monkeypatch.setattr(
        subdivide,
        "_leaves",
        lambda scene, rects: evaluated.append(len(rects)) or plain(scene, rects),
    )
    mask = stdlib.svg_temporal(226, 9, 1801, 2.0)
    plan = make_plan(mask.program, 226 + 9 * 1801, 226 + 9 * 1801)
    assert plan.kind == "table" and sum(evaluated) < plan.live_tiles


@pytest.mark.parametrize("tile", [(16, 16), (7, 30)])
def test_a_plan_of_unlike_periods_is_that_of_brute_force(tile):
    mask = stdlib.svg_temporal(5, 4, 37, 1.0)
    plan = make_plan(mask.program, 153, 153, tile=tile)
    dense = np.array([[mask(0, 0, q, kv) for kv in range(153)] for q in range(153)])
    for i in range(plan.q_tiles):
        for j in range(plan.kv_tiles):
            block = dense[i * tile[0] : (i + 1) * tile[0], j * tile[1] : (j + 1) * tile[1]]
            state = ("empty", "partial", "full")[int(block.any()) + int(block.all())]
            assert plan.tile(0, 0, i, j) == state
