"""Dilated bands: a closed form with a stride where tiles reach it, exact; else a table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import make_plan
from support.masks import Mask, both, shapes, states_of

BANDS = {
    "both sides": lambda b, h, q, kv, w, s, r: both(
        both(q - kv <= w, kv - q <= w), (q - kv) % s == r % s
    ),
    "causal": lambda b, h, q, kv, w, s, r: both(q >= kv, (kv - q) % s == r % s),
    "window": lambda b, h, q, kv, w, s, r: both(both(q >= kv, q - kv < w), q % s == kv % s),
    "later keys": lambda b, h, q, kv, w, s, r: both(kv > q + w, (kv - q) % s == 0),
    "every difference": lambda b, h, q, kv, w, s, r: (q - kv + r) % s == 0,
    "heads apart": lambda b, h, q, kv, w, s, r: both(
        both(q >= kv, q - kv < w + 2 * h), both((q - kv) % s == 0, h > 0)
    ),
}


def band(name, w, s, r):
    """The mask; strides and remainders are constants, as divisors always are."""
    return Mask(lambda b, h, q, kv, w: BANDS[name](b, h, q, kv, w, s, r), {"w": w})


@pytest.mark.parametrize("name", BANDS)
@given(shapes(), st.integers(-3, 40), st.integers(2, 7), st.integers(0, 6))
def test_dilated_bands_are_planned_exactly(name, shape, w, s, r):
    mask = band(name, w, s, r)
    lengths = shape.q_len, shape.kv_len
    options = {"tile": shape.tile, "q_offset": shape.q_offset, "heads": 3}
    plan = make_plan(mask.program(), *lengths, **options)
    dense = mask.dense(1, 3, *lengths, shape.q_offset)
    np.testing.assert_array_equal(plan.to_dense(), states_of(dense, shape.tile))
    np.testing.assert_array_equal(plan.transposed().to_dense(), plan.to_dense())
    assert plan.pairs == plan.transposed().pairs == dense.sum()
    assert plan.may_have_empty_rows == bool((~dense.any(axis=3)).any())
    last = [(n - 1) % t + 1 for n, t in zip(lengths, shape.tile, strict=True)]
    if plan.kind == "table":
        assert sum(last) - 1 < s and plan.why_table is not None


def test_a_dilated_window_has_no_table_and_says_its_steps():
    plan = fx.plan(stdlib.dilated_window(1000, 5), 1 << 20, 1 << 20)
    assert plan.kind == plan.transposed().kind == "closed-form" and plan.nbytes == 0
    assert "in steps of 5" in plan.explain()
    assert plan.full_tiles == 0 and plan.live_tiles == 8192 * 17 - 2 * (
        1 + 2 + 3 + 4 + 5 + 6 + 7 + 8
    )


def test_a_stride_beyond_a_tile_leaves_gaps_and_has_a_table():
    plan = fx.plan(lambda b, h, q, kv: q >= kv and (q - kv) % 512 == 0, 4096, 4096)
    assert plan.kind == "table" and "less than 512 differences" in plan.explain()
