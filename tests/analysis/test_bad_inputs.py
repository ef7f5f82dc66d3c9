"""Masks and lengths that ask for too much: an answer, or a clear refusal; never a crash."""

from __future__ import annotations

import numpy as np
import pytest

import flexdsl as fx
from flexdsl.analysis import make_plan
from flexdsl.analysis.values import MAX_DEPTH, is_deep
from flexdsl.errors import ArgumentError
from support.masks import Mask, both, either, maximum, no, states_of, where

DEEP = 3 * MAX_DEPTH


def alternating(b, h, q, kv):
    x = q >= kv
    for n in range(DEEP):
        x = no(both(x, kv != 2 * n))
    return x


def stepped(b, h, q, kv):
    x = q - kv
    for n in range(DEEP):
        x = maximum(where(q == n, kv + n, x), n % 3)
    return x > 3


def chained(b, h, q, kv):
    x = q == kv
    for n in range(DEEP):
        x = either(x, q == kv + 3 * n)
    return x


@pytest.mark.parametrize("function", [alternating, stepped, chained])
def test_operations_nested_without_end_have_a_plan(function) -> None:
    mask = Mask(function)
    assert is_deep(mask.program().expr) == (function is not chained)
    plan = make_plan(mask.program(), 30, 40, tile=(8, 8))
    expected = states_of(mask.dense(1, 1, 30, 40), (8, 8))
    np.testing.assert_array_equal(plan.to_dense(), expected)
    np.testing.assert_array_equal(plan.transposed().to_dense(), expected)


def test_why_a_deep_mask_is_a_table() -> None:
    plan = make_plan(Mask(alternating).program(), 30, 40)
    assert plan.why_table is not None and "are nested" in plan.why_table.reason


def test_the_last_positions_of_32_bits_are_planned() -> None:
    """Runs and pairs near 2**31 do not wrap around, in a closed form and in a table."""
    first = 2**31 - 2 - 300
    causal = make_plan(Mask(lambda b, h, q, kv: q >= kv).program(), 300, 2**31 - 2, q_offset=first)
    assert causal.kind == "closed-form"
    assert causal.pairs == sum(first + row + 1 for row in range(300))
    (full, partial) = causal.runs(0, 0, 0)
    assert (full.start, full.stop) == (0, first // 128) and partial.start == full.stop
    last = Mask(lambda b, h, q, kv: both(kv >= first, (q ^ kv) % 7 < 3))
    rows = Mask(lambda b, h, q, kv: last.function(b, h, q + first, kv + first))
    tile = (60, 2**24)
    plan = make_plan(last.program(), 300, 2**31 - 2, q_offset=first, tile=tile)
    (run,) = plan.runs(0, 0, 4)
    assert (run.start, run.stop, run.full) == (127, 128, False)
    assert plan.kind == "table" and plan.pairs == rows.dense(1, 1, 300, 300).sum()


def test_positions_beyond_32_bits_are_refused() -> None:
    for lengths, q_offset in (((2**31, 4), 0), ((4, 2**31), 0), ((4, 4), 2**31 - 4)):
        with pytest.raises(ArgumentError, match="32-bit"):
            fx.plan(lambda b, h, q, kv: q >= kv, *lengths, q_offset=q_offset)
