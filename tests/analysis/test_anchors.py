"""Forms that hold whatever tensors come to contain: which masks have one, and how exact it is.

The tensors of a plan that is made for a device are not read. Here they hold anything at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import BlockPlan, make_plan
from flexdsl.analysis.anchors import slope_of_anchor
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.typical import typical_closed_form
from support.masks import Mask, Table, both, masks, maximum, minimum, states_of, where

LENGTH = 48
FIRST, STOP = (Table(n, np.arange(LENGTH)) for n in ("first", "stop"))


def own(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return both(minimum(FIRST[q], q) <= kv, kv < maximum(STOP[q], q + 1))


# The slope of the anchor: what a plan of a device needs is at most 1.
ANCHORED: dict[str, tuple[Any, int]] = {
    "from a start to the row itself": (lambda b, h, q, kv: both(FIRST[q] <= kv, kv <= q), 1),
    "from the row itself on": (lambda b, h, q, kv: both(q <= kv, kv < STOP[q]), 1),
    "from the first key": (lambda b, h, q, kv: kv < STOP[q], 0),
    "the row itself is between them": (own, 1),
    "and some are cut": (lambda b, h, q, kv: both(own(b, h, q, kv), kv <= q), 1),
    "and in a window": (lambda b, h, q, kv: both(own(b, h, q, kv), abs(q - kv) < 9), 1),
    "key 20 is between them": (
        lambda b, h, q, kv: both(minimum(FIRST[q], 20) <= kv, kv < maximum(STOP[q], 21)),
        0,
    ),
    "two keys a row": (lambda b, h, q, kv: both(FIRST[q] <= kv, kv < 2 * q), 2),
    "blocks of rows": (
        lambda b, h, q, kv: both(minimum(FIRST[q], q * 3) <= kv, kv < maximum(STOP[q], q * 3 + 1)),
        3,
    ),
}
GAPS = "leave gaps"
FREE: dict[str, tuple[Any, str]] = {
    "both ends are loaded": (lambda b, h, q, kv: both(FIRST[q] <= kv, kv < STOP[q]), GAPS),
    "the row itself may be outside": (
        lambda b, h, q, kv: both(minimum(FIRST[q], q) <= kv, kv < maximum(STOP[q], q)),
        GAPS,
    ),
    "one end may be anywhere": (
        lambda b, h, q, kv: both(minimum(FIRST[q], q) <= kv, kv < STOP[q]),
        GAPS,
    ),
    "a window anywhere": (
        lambda b, h, q, kv: both(FIRST[q] <= kv, kv < FIRST[q] + 9),
        "may not fit in 32 bits",
    ),
    "where the row chooses": (
        lambda b, h, q, kv: kv < where(FIRST[q] > 3, q + 1, 3),
        "how its intervals meet",
    ),
}


def plan_of(function: Any, device: str | None = "cuda") -> BlockPlan:
    mask = Mask(function, {}, (FIRST, STOP))
    return make_plan(mask.program(), LENGTH, LENGTH, tile=(16, 16), device=device)


@pytest.mark.parametrize("name", ANCHORED)
def test_anchors(name: str) -> None:
    function, slope = ANCHORED[name]
    host, unread = plan_of(function, None), plan_of(function)
    assert host.closed_form is not None and host.closed_form.by_rows
    prover = Prover("q", host.scene.grid, host.scene.bindings)
    assert slope_of_anchor(host.closed_form.intervals[0], prover) == slope
    assert unread.kind == ("closed-form" if slope <= 1 else "device")
    built = typical_closed_form(host.mask)
    assert (built is not None) == (slope <= 1)


@pytest.mark.parametrize("name", FREE)
def test_no_anchor(name: str) -> None:
    function, reason = FREE[name]
    plan = plan_of(function)
    assert plan.kind == "device" and plan.why_table is not None
    assert reason in plan.why_table.reason
    assert typical_closed_form(plan.mask) is None


def test_what_to_write_instead_is_a_closed_form() -> None:
    text = plan_of(FREE["both ends are loaded"][0], "cpu").explain()
    assert "with minimum(low, q) <= kv and kv < maximum(high, q + 1)" in text
    assert "the least and the largest of a tile's rows" in plan_of(own, "cpu").explain()


def contents(values: Any) -> dict[str, Any]:
    return dict(zip(("first", "stop"), np.array(values).reshape(2, -1), strict=True))


anything = st.lists(st.integers(-9, LENGTH + 9), min_size=2 * LENGTH, max_size=2 * LENGTH)
tiles = st.tuples(st.integers(1, 50), st.integers(1, 50))


def found_and_true(function: Any, held: dict[str, Any], tile: Any, q_offset: int) -> Any:
    """States of tiles by the form that was found unread, and by brute force."""
    program = Mask(function, {}, tuple(Table(n, x) for n, x in held.items())).program()
    rows = LENGTH - q_offset
    plan = make_plan(program, rows, LENGTH, tile=tile, q_offset=q_offset, device="cpu")
    assert plan.kind == "closed-form"
    q, kv = np.arange(rows)[:, None] + q_offset, np.arange(LENGTH)
    return plan.to_dense()[0, 0], plan.allowed(0, 0, np.arange(rows), kv), (q, kv)


@given(anything, tiles, st.integers(0, 9))
def test_rows_that_hold_themselves_are_exact_whatever_tensors_hold(
    values: list[int], tile: tuple[int, int], q_offset: int
) -> None:
    held = contents(values)
    states, dense, (q, kv) = found_and_true(own, held, tile, q_offset)
    first, stop = held["first"][q], held["stop"][q]
    wanted = (np.minimum(first, q) <= kv) & (kv < np.maximum(stop, q + 1))
    np.testing.assert_array_equal(dense, wanted)
    np.testing.assert_array_equal(states, states_of(wanted[None, None], tile)[0, 0])


@given(anything, tiles, st.integers(0, 9))
def test_in_vain_are_tiles_between_empty_rows_alone(
    values: list[int], tile: tuple[int, int], q_offset: int
) -> None:
    held = contents(values)
    function = ANCHORED["from a start to the row itself"][0]
    states, dense, (q, kv) = found_and_true(function, held, tile, q_offset)
    wanted = (held["first"][q] <= kv) & (kv <= q)
    np.testing.assert_array_equal(dense, wanted)
    truth = states_of(wanted[None, None], tile)[0, 0]
    assert ((states == 2) == (truth == 2)).all() and (states[truth == 1] == 1).all()
    for row, (found, right) in enumerate(zip(states, truth, strict=True)):
        rows = wanted[row * tile[0] : (row + 1) * tile[0]]
        in_vain = int(((found > 0) & (right == 0)).sum())
        assert in_vain * tile[1] < len(rows), "fewer keys than the tile has rows"
        assert in_vain == 0 or not rows.any(axis=1).all(), "only where a row is empty"


@settings(max_examples=40)  # each is planned by kernels in the interpreter
@given(masks(), tiles)
def test_forms_of_any_mask_leave_nothing_out(mask: Mask, tile: tuple[int, int]) -> None:
    axes = {"batch": 2, "heads": 3, "tile": tile}
    plan = make_plan(mask.program(), LENGTH, LENGTH, device="cpu", **axes)
    truth = states_of(mask.dense(2, 3, LENGTH, LENGTH), tile)
    for made in (plan, plan.transposed()):
        states = made.to_dense()
        assert (states[truth > 0] > 0).all() and (truth[states == 2] == 2).all()


def test_documents_of_a_device() -> None:
    """Forward nothing is made; backward the rows of a key are searched for, and a table is made."""
    offsets = [0, 7, 9, 40, 48]
    for mask, dense in (
        (stdlib.document(offsets=offsets), stdlib.document),
        (stdlib.document_causal(offsets=offsets), stdlib.document_causal),
    ):
        ids = stdlib.document_ids(offsets=offsets)
        for tile in ((16, 16), (16, 5), (5, 16)):
            plan = fx.plan(mask, LENGTH, LENGTH, tile=tile, device="cpu")
            other = fx.plan(dense(ids), LENGTH, LENGTH, tile=tile)
            assert plan.kind == "closed-form" and plan.nbytes == 0
            assert plan.transposed().kind == "device" and plan.transposed().why_table is not None
            for made in (plan, plan.transposed()):
                np.testing.assert_array_equal(made.to_dense(), other.to_dense())
            assert plan.pairs == other.pairs
