"""Strides of tokens and of blocks: closed forms, exact however far apart live tiles lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import make_plan
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.strided import derive_form
from flexdsl.analysis.values import bind
from support.fuzz import at_most
from support.masks import Mask, both, either, no, shapes, states_of
from support.plans import as_table

BANDS = {
    "both sides": lambda b, h, q, kv, w, s, r: both(
        both(q - kv <= w, kv - q <= w), (q - kv) % s == r % s
    ),
    "causal": lambda b, h, q, kv, w, s, r: both(q >= kv, (kv - q) % s == r % s),
    "window": lambda b, h, q, kv, w, s, r: both(both(q >= kv, q - kv < w), q % s == kv % s),
    "later keys": lambda b, h, q, kv, w, s, r: both(kv > q + w, (kv - q) % s == 0),
    "every difference": lambda b, h, q, kv, w, s, r: (q - kv + r) % s == 0,
    "no difference but one": lambda b, h, q, kv, w, s, r: both(q >= kv, (q - kv) % s != r % s),
    "heads apart": lambda b, h, q, kv, w, s, r: both(
        both(q >= kv, q - kv < w + 2 * h), both((q - kv) % s == 0, h > 0)
    ),
    "wide": lambda b, h, q, kv, w, s, r: both(
        both(q - kv <= w, kv <= q), (q - kv + r) % s < s // 2
    ),
    "cut": lambda b, h, q, kv, w, s, r: both(both(kv >= 5, kv < 40), (q - kv) % s == r % s),
    "cut and causal": lambda b, h, q, kv, w, s, r: both(
        both(kv >= r, kv <= q), (q + h - kv) % s == 0
    ),
    "sums": lambda b, h, q, kv, w, s, r: (q + kv + r) % s == 0,
    "sums, wide": lambda b, h, q, kv, w, s, r: both(kv < w, (q + kv) % s >= s // 2),
    "by head": lambda b, h, q, kv, w, s, r: both(q >= kv, (q - kv + h) % s == 0),
}
STAYING = {
    "every key": lambda b, h, q, kv, w, s, r: both(q >= kv, kv % s == r % s),
    "in a window": lambda b, h, q, kv, w, s, r: both(both(q >= kv, q - kv < w), (kv + r) % s == 0),
    "blocks": lambda b, h, q, kv, w, s, r: both(q >= kv, kv // 4 % s == r % s),
    "blocks by head": lambda b, h, q, kv, w, s, r: both(
        both(kv <= q + w, q <= kv + w), (kv // 3 + 2 * h + r) % s == 0
    ),
    "summaries": lambda b, h, q, kv, w, s, r: both(q >= kv, kv % (4 * s) >= 4 * s - r - 1),
    "first ones": lambda b, h, q, kv, w, s, r: both(kv <= q, no(kv % (3 * s) >= 2 * s - 1)),
    "between": lambda b, h, q, kv, w, s, r: both(2 + h <= kv % (9 + s), kv % (9 + s) < 6 + h),
    "down": lambda b, h, q, kv, w, s, r: both(q >= kv, (h - kv // 5) % s == 0),
    "stairs": lambda b, h, q, kv, w, s, r: both(kv // 6 <= q // 6, (kv - r) % (5 * s) < 3),
}
UNIONS = {
    "one head": lambda b, h, q, kv, w, s, r: both(either(kv <= q, h == 1), kv % (7 * s) == r),
    "and the latest": lambda b, h, q, kv, w, s, r: both(
        q >= kv, either(q - kv < w, (kv // 4 + h) % s == 0)
    ),
    "and the latest blocks": lambda b, h, q, kv, w, s, r: both(
        q >= kv, either(q // 4 - kv // 4 < 2, either((kv // 4 + h) % s == 0, h >= 2))
    ),
    "and sinks": lambda b, h, q, kv, w, s, r: both(q >= kv, either(kv < r, (q - kv) % s == 0)),
    "and a class token": lambda b, h, q, kv, w, s, r: either(
        either(q == 0, kv == 0), (q - kv) % s == 0
    ),
    "summaries and one's own": lambda b, h, q, kv, w, s, r: both(
        q >= kv, either(kv // (3 * s) == q // (3 * s), kv % (3 * s) >= 3 * s - 2)
    ),
}
ALL = BANDS | STAYING | UNIONS


def strided(name, w, s, r):
    """The mask; strides and remainders are constants, as divisors always are."""
    return Mask(lambda b, h, q, kv, w: ALL[name](b, h, q, kv, w, s, r), {"w": w})


@pytest.mark.parametrize("name", ALL)
@at_most(100)  # of each of the many masks
@given(shapes(), st.integers(-3, 40), st.integers(2, 45), st.integers(0, 6))
def test_strides_are_planned_exactly(name, shape, w, s, r):
    mask = strided(name, w, s, r)
    lengths = shape.q_len, shape.kv_len
    options = {"tile": shape.tile, "q_offset": shape.q_offset, "heads": 3}
    plan = make_plan(mask.program(), *lengths, **options)
    dense = mask.dense(1, 3, *lengths, shape.q_offset)
    for made in (plan, plan.transposed(), as_table(plan)):
        np.testing.assert_array_equal(made.to_dense(), states_of(dense, shape.tile))
    assert plan.pairs == plan.transposed().pairs == dense.sum()
    assert plan.live_tiles == (plan.to_dense() > 0).sum()
    assert plan.may_have_empty_rows == bool((~dense.any(axis=3)).any())


@pytest.mark.parametrize("name", BANDS | STAYING)
@given(shapes(), st.integers(1, 40), st.integers(2, 45), st.integers(0, 6))
def test_a_stride_alone_never_has_a_table(name, shape, w, s, r):
    plan = make_plan(
        strided(name, w, s, r).program(), shape.q_len, shape.kv_len, tile=shape.tile, heads=3
    )
    assert plan.kind == "closed-form" and plan.nbytes == 0


@pytest.mark.parametrize("name", ALL)
@at_most(100)
@given(shapes(), st.integers(1, 40), st.integers(2, 45), st.integers(0, 6), st.booleans())
def test_ends_and_sieve_of_a_row_are_its_allowed_positions(name, shape, w, s, r, turned):
    """What texts and later passes read of an interval, against the mask on ints."""
    mask = strided(name, w, s, r)
    program = mask.program()
    bindings = bind(program.values, program.expr)
    inner, outer = ("q", "kv") if turned else ("kv", "q")
    grid = Grid(shape.q_len, shape.kv_len, shape.tile, 0, 1, 3)
    form = make_plan(program, shape.q_len, shape.kv_len, tile=shape.tile, heads=3)
    form = (form.transposed() if turned else form).closed_form
    if form is None:
        return
    assert derive_form(program.expr, inner, Prover(outer, grid, bindings)) is not None
    dense = mask.dense(1, 3, shape.q_len, shape.kv_len)[0]
    dense = dense.swapaxes(1, 2) if turned else dense
    x = np.arange(dense.shape[2])
    for h, row in np.ndindex(3, dense.shape[1]):
        at = {"b": np.array(0), "h": np.array(h), outer: np.array(row)}
        allowed = np.zeros(len(x), bool)
        for i in form.intervals:
            low, high = (fx.ir.evaluate(e, at, bindings.all) for e in (i.lower, i.upper))
            inside = (low <= x) & (x < high)
            if i.sieve is not None:
                ends = (
                    fx.ir.evaluate(e, at, bindings.all) for e in (i.sieve.anchor, i.sieve.width)
                )
                anchor, width = ends
                inside &= (x - anchor) % i.sieve.period < width
            allowed |= inside
        np.testing.assert_array_equal(allowed, dense[h, row])


def test_a_dilated_window_has_no_table_and_says_its_steps():
    plan = fx.plan(stdlib.dilated_window(1000, 5), 1 << 20, 1 << 20)
    assert plan.kind == plan.transposed().kind == "closed-form" and plan.nbytes == 0
    assert "in steps of 5 through q" in plan.explain()
    assert plan.full_tiles == 0 and plan.live_tiles == 8192 * 17 - 2 * (
        1 + 2 + 3 + 4 + 5 + 6 + 7 + 8
    )


def test_a_stride_beyond_a_tile_has_no_table():
    plan = fx.plan(lambda b, h, q, kv: q >= kv and (q - kv) % 512 == 0, 4096, 4096)
    assert plan.kind == plan.transposed().kind == "closed-form"
    assert plan.live_tiles == sum(range(1, 9)) * 4 and "steps of 512 through q" in plan.explain()


@pytest.mark.parametrize(
    ("mask", "heads"),
    [
        (stdlib.strided(512), 1),
        (stdlib.strided(1000), 1),
        (stdlib.strided_heads(64, 16, 8, 8), 8),
        (stdlib.timesformer_spatial(196), 1),
        (stdlib.sparse_fixed(512, 32, 4), 8),
    ],
)
def test_strides_at_a_million_tokens_have_no_table(mask, heads):
    plan = fx.plan(mask, 1 << 20, 1 << 20, heads=heads)
    assert plan.kind == plan.transposed().kind == "closed-form" and plan.nbytes == 0


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (lambda b, h, q, kv: q % 8 * 3 == kv % 64, "moves with q % 8"),
        (lambda b, h, q, kv: kv % 9 == 0 and kv % 4 == 0, "are asked of the same pairs"),
        (lambda b, h, q, kv: kv % 9 == 0 or kv % 40 == 0, "is a second stride"),
        (lambda b, h, q, kv: 2 * kv % 33 == 0, "times a number"),
        (lambda b, h, q, kv: (kv + 5 * q) % 33 == 0, "too far apart from row to row"),
        (lambda b, h, q, kv: kv % 33 < q, "changes with the row"),
        (lambda b, h, q, kv: (kv - q // 4) % 33 == 0, "moves with q // 4"),
        (lambda b, h, q, kv: q // 8 * 8 >= kv and (q - kv) % 33 == 0, "does not move as"),
    ],
)
def test_what_has_no_closed_form_says_why(mask, reason):
    plan = fx.plan(mask, 200, 200, tile=(16, 16))
    assert plan.kind == "table" and plan.why_table is not None
    assert reason in plan.why_table.reason
    dense = np.array([[bool(mask(0, 0, q, kv)) for kv in range(200)] for q in range(200)])
    np.testing.assert_array_equal(plan.to_dense(), states_of(dense[None, None], (16, 16)))
