"""torch's BlockMask: made by torch and by a plan they are the same, and FlexAttention takes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

import flexdsl as fx
from flexdsl.errors import ArgumentError
from support.calls import MASKS, SEEN, Shape, assert_near

FIELDS = [f"{full}{axis}_{what}" for full in ("", "full_") for axis in ("kv", "q")
          for what in ("num_blocks", "indices")]  # fmt: skip
WINDOW = 20
NAMES = ["none", "causal", "documents", "padding of each batch", "window of each head", "dilated",
         "nothing", "empty rows"]  # fmt: skip


def dense(plan):
    return torch.from_numpy(plan.to_dense(tokens=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("q_len", "kv_len"), [(64, 48), (60, 41)])
def test_it_is_the_block_mask_that_torch_makes(name, q_len, kv_len):
    plan = fx.plan(MASKS[name], q_len, kv_len, batch=2, heads=3, tile=(16, 8))
    made = plan.to_block_mask()
    allowed = dense(plan)
    batch, heads = 2 if plan.depends_on_batch else None, 3 if plan.depends_on_head else None
    expected = create_block_mask(
        lambda b, h, q, kv: allowed[b, h, q, kv],
        batch, heads, q_len, kv_len, device="cpu", BLOCK_SIZE=(16, 8),
    )  # fmt: skip
    assert isinstance(made, BlockMask) and made.BLOCK_SIZE == (16, 8)
    assert made.seq_lengths == (q_len, kv_len)
    for field in FIELDS:
        assert torch.equal(getattr(made, field), getattr(expected, field)), field


OPERATIONS = {
    "numbers": lambda b, h, q, kv: abs(q - kv) // 3 % 2 == 0 or -q + 2 * kv > 30,
    "bits": lambda b, h, q, kv: ((q ^ kv) & 12) | (q << 1) >= 30 or (kv >> 2) == 3,
    "floats": lambda b, h, q, kv: fx.sin(0.1 * q) + fx.exp(-0.05 * kv) / 2.0 > fx.tanh(0.01 * q),
    "choices": lambda b, h, q, kv: fx.where(h > 0, fx.minimum(q, 20), fx.maximum(kv, 9)) < 15 + b,
    "divisors": lambda b, h, q, kv: q % (h + 2) == kv // (b + 1) % 2,
    "window": lambda b, h, q, kv: 0 <= q - kv < WINDOW,
    "loads": lambda b, h, q, kv: SEEN[b, kv] and not SEEN[b, fx.minimum(q, 63)],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_its_mask_mod_is_the_mask(name):
    plan = fx.plan(OPERATIONS[name], 40, 50, batch=2, heads=2, tile=(16, 16), q_offset=5)
    mask_mod = plan.to_block_mask().mask_mod
    axes = (torch.arange(n) for n in (2, 2, 40, 50))
    grids = torch.meshgrid(*axes, indexing="ij")
    assert torch.equal(mask_mod(*grids), dense(plan))
    one = mask_mod(*(torch.tensor(n) for n in (1, 1, 7, 3)))
    assert one.dtype is torch.bool and bool(one) == bool(dense(plan)[1, 1, 7, 3])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["causal", "documents", "window of each head"])
def test_flex_attention_takes_it(name):
    q, k, v = Shape(2, 2, 2, 64, 48).tensors(torch.float32)
    plan = fx.plan(MASKS[name], 64, 48, batch=2, heads=2, tile=(16, 16))
    theirs = flex_attention(q, k, v, block_mask=plan.to_block_mask())
    assert_near(theirs, fx.attention(q, k, v, mask=plan), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name):
    plan = fx.plan(MASKS[name], 60, 41, batch=2, heads=3, tile=(16, 8))
    back = fx.BlockPlan.from_block_mask(plan.to_block_mask(), batch=2, heads=3)
    assert (back.tile_shape, back.q_len, back.kv_len) == ((16, 8), 60, 41)
    np.testing.assert_array_equal(back.to_dense(), plan.to_dense())
    np.testing.assert_array_equal(back.to_dense(tokens=True), plan.to_dense(tokens=True))


def test_full_tiles_are_not_asked_the_mask():
    """As in FlexAttention: that is what makes a tile full there."""
    chosen = BlockMask.from_kv_blocks(
        torch.tensor([[[1, 1]]], dtype=torch.int32),
        torch.tensor([[[[0, 1], [1, 0]]]], dtype=torch.int32),
        torch.tensor([[[0, 1]]], dtype=torch.int32),
        torch.tensor([[[[0, 1], [0, 1]]]], dtype=torch.int32),
        BLOCK_SIZE=16,
        mask_mod=lambda b, h, q, kv: q % 2 == 0,
    )
    plan = fx.BlockPlan.from_block_mask(chosen)
    states = [[plan.tile(0, 0, i, j) for j in (0, 1)] for i in (0, 1)]
    assert states == [["partial", "empty"], ["full", "partial"]]
    assert plan.pairs == 128 + 256 + 128


def test_attention_with_the_block_mask_of_torch():
    gpu = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = Shape(1, 2, 2, 64, 64).tensors(torch.float32)
    ids = torch.arange(64) // 9
    expected = fx.attention(*inputs, mask=lambda b, h, q, kv: ids[q] == ids[kv] and q >= kv)
    for place, backend in ((torch.device("cpu"), "cpu"), (gpu, "triton")):
        there = ids.to(place)
        made = create_block_mask(
            lambda b, h, q, kv, there=there: (there[q] == there[kv]) & (q >= kv),
            None, None, 64, 64, device=place, BLOCK_SIZE=16,
        )  # fmt: skip
        plan = fx.BlockPlan.from_block_mask(made, device=place)
        out = fx.attention(*(x.to(place) for x in inputs), mask=plan, backend=backend)
        assert_near(out.cpu(), expected, 1e-5)


def test_no_block_mask():
    with pytest.raises(ArgumentError, match=r"a Tensor is no BlockMask .*\n.*from_blocks"):
        fx.BlockPlan.from_block_mask(torch.ones(1, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ArgumentError, match="no pair"):
        fx.plan(None, 0, 16).to_block_mask()
