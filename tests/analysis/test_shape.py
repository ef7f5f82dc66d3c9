"""Facts that a mask's form shows: symmetry, one range in each row, ends that never decrease."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import make_plan
from support.masks import HEADS, LONGEST, masks, shapes, solvable_masks

N = 40
IDS = torch.arange(N) // 7
SHUFFLED = torch.from_numpy(np.random.default_rng(0).permutation(N))

SYMMETRIC = {
    "everything": lambda b, h, q, kv: b >= 0,
    "both sides": lambda b, h, q, kv: abs(q - kv) < 5,
    "two comparisons": lambda b, h, q, kv: q - kv <= 5 and kv - q <= 5,
    "documents": lambda b, h, q, kv: IDS[q] == IDS[kv],
    "dilated": lambda b, h, q, kv: (q - kv) % 3 == 0,
    "blocks": lambda b, h, q, kv: q // 4 == kv // 4 or (q < 3 or kv < 3),
    "products": lambda b, h, q, kv: q * kv < 100 or (q ^ kv) % 5 == 1,
    "grid": lambda b, h, q, kv: abs(q // 8 - kv // 8) + abs(q % 8 - kv % 8) < 3,
}
NOT = {
    "causal": lambda b, h, q, kv: q >= kv,
    "remainder": lambda b, h, q, kv: (q - kv) % 3 == 1,
    "one load": lambda b, h, q, kv: IDS[q] == 2,
    "squares": lambda b, h, q, kv: q * q < kv,
}


@pytest.mark.parametrize("name", SYMMETRIC | NOT)
def test_symmetry(name):
    plan = fx.plan((SYMMETRIC | NOT)[name], N, N, tile=(8, 8))
    dense = plan.to_dense(tokens=True)
    assert plan.is_symmetric == (name in SYMMETRIC)
    assert plan.is_symmetric == bool((dense == dense.swapaxes(2, 3)).all())
    assert ("q and kv may be exchanged" in plan.explain()) == plan.is_symmetric


@given(masks())
def test_symmetry_is_never_claimed_falsely(mask):
    plan = make_plan(mask.program(), LONGEST, LONGEST, batch=2, heads=HEADS, tile=(16, 16))
    dense = plan.to_dense(tokens=True)
    assert not plan.is_symmetric or (dense == dense.swapaxes(2, 3)).all()


@given(solvable_masks(), shapes())
def test_ranges_are_never_claimed_falsely(mask, shape):
    options = {"tile": shape.tile, "q_offset": shape.q_offset, "batch": 2, "heads": HEADS}
    plan = make_plan(mask.program(), shape.q_len, shape.kv_len, **options)
    rows = mask.dense(2, HEADS, shape.q_len, shape.kv_len, shape.q_offset)
    changes = np.diff(np.pad(rows, ((0, 0), (0, 0), (0, 0), (1, 1))).astype(int), axis=3)
    if plan.is_contiguous:
        assert (np.abs(changes).sum(axis=3) <= 2).all()
    if plan.ends_ascend:
        first, last = rows.argmax(axis=3), shape.kv_len - rows[..., ::-1].argmax(axis=3)
        for low, high, some in zip(
            first.reshape(-1, shape.q_len),
            last.reshape(-1, shape.q_len),
            rows.any(axis=3).reshape(-1, shape.q_len),
            strict=True,
        ):
            assert (np.diff(low[some]) >= 0).all() and (np.diff(high[some]) >= 0).all()


@pytest.mark.parametrize(
    ("mask", "contiguous", "ascending"),
    [
        (stdlib.causal(), True, True),
        (stdlib.sliding_window(7), True, True),
        (lambda b, h, q, kv: q // 8 == kv // 8, True, True),
        (lambda b, h, q, kv: kv < 30 - q, True, False),
        (lambda b, h, q, kv: SHUFFLED[q] <= kv <= q, True, False),
        (stdlib.attention_sink(2, 5), False, False),
        (stdlib.dilated_window(6, 3), False, True),
        (stdlib.document(IDS.numpy()), False, False),
    ],
)
def test_ranges(mask, contiguous, ascending):
    plan = fx.plan(mask, N, N, tile=(8, 8))
    assert (plan.is_contiguous, plan.ends_ascend) == (contiguous, ascending)
    told = plan.explain()
    assert ("the kv of each q are one range" in told) == contiguous
    assert ("its ends never decrease along q" in told) == ascending
