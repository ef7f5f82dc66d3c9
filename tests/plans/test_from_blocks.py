"""Tiles chosen at run time, with a mask inside: attention against dense masks, and clear errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.errors import ArgumentError, CaptureError, PlanError
from flexdsl.runtime.reference import dense_attention
from support.calls import Shape, assert_near

BLOCKS = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.4
TILE = (32, 16)
Q_LEN, KV_LEN = 90, 76  # the last tiles are cut
DOCUMENT = np.arange(128) // 30
# Where generated kernels run: interpreted without a GPU.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def expanded(blocks, tile=TILE, lengths=(Q_LEN, KV_LEN)):
    """The chosen pairs: bool [B, H, q_len, kv_len]."""
    pairs = blocks.repeat_interleave(tile[0], 2).repeat_interleave(tile[1], 3)
    return pairs[:, :, : lengths[0], : lengths[1]]


def pairs_of(function, batch, heads, q_offset=0):
    """A mask pair by pair, on plain ints."""
    shape = batch, heads, Q_LEN, KV_LEN
    flat = [bool(function(b, h, q + q_offset, kv)) for b, h, q, kv in np.ndindex(*shape)]
    return torch.tensor(flat).reshape(shape)


MASKS = {
    "everything": lambda b, h, q, kv: True,
    "causal": lambda b, h, q, kv: q >= kv,
    "documents": lambda b, h, q, kv: DOCUMENT[q] == DOCUMENT[kv],
    "batch and head": lambda b, h, q, kv: (q + kv) % (b + h + 2) != 0,
}


def from_blocks(blocks, name, **options):
    mask = None if name == "everything" else MASKS[name]
    given = {"tile": TILE, "q_len": Q_LEN, "kv_len": KV_LEN} | options
    return fx.BlockPlan.from_blocks(blocks, mask=mask, **given)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("distinct", [(2, 4), (1, 4), (2, 1), (1, 1)])
def test_the_plan_is_the_dense_mask(name, distinct):
    blocks = BLOCKS[: distinct[0], : distinct[1]]
    plan = from_blocks(blocks, name, batch=2, heads=4)
    dense = expanded(blocks) & pairs_of(MASKS[name], 2, 4)
    np.testing.assert_array_equal(plan.to_dense(tokens=True), dense.numpy())
    assert plan.pairs == int(dense.sum())
    for b, h, i, j in np.ndindex(2, 4, 3, 5):
        tile = dense[b, h, i * 32 : (i + 1) * 32, j * 16 : (j + 1) * 16]
        expected = "full" if tile.all() else "partial" if tile.any() else "empty"
        assert plan.tile(b, h, i, j) == expected


@pytest.mark.parametrize(
    ("backend", "device"),
    [("cpu", None), ("cpu", "cpu"), ("triton", None), ("triton", DEVICE), ("reference", None)],
)
@pytest.mark.parametrize("name", ["everything", "causal", "documents"])
def test_attention_and_its_gradients(backend, device, name):
    place = DEVICE if backend == "triton" else torch.device("cpu")
    shape = Shape(1, 4, 2, Q_LEN, KV_LEN)
    plan = from_blocks(BLOCKS[:1].to(place), name, device=device, q_offset=20)
    assert plan.kind == ("device" if device or place.type == "cuda" else "table")
    inputs = [x.to(place).requires_grad_() for x in shape.tensors(torch.float32)]
    out = fx.attention(*inputs, mask=plan, backend=backend, q_offset=20)
    exact = [x.requires_grad_() for x in shape.tensors()]
    dense = expanded(BLOCKS[:1]) & pairs_of(MASKS[name], 1, 4, 20)
    expected, _ = dense_attention(*exact, allowed=dense)
    assert_near(out.detach().cpu(), expected.detach(), 1e-5)
    d_out = torch.linspace(-1, 1, out.numel()).view(out.shape)
    found = torch.autograd.grad(out, inputs, d_out.to(place))
    for a, b in zip(found, torch.autograd.grad(expected, exact, d_out.double()), strict=True):
        assert_near(a.cpu(), b, 1e-5)


@pytest.mark.parametrize("tile", [(8, 8), (64, 128), (24, 40)])
def test_kernels_may_run_in_other_tiles(tile):
    """MoBA's blocks are larger than a kernel's tiles, those of video models smaller."""
    count = -(-Q_LEN // tile[0]), -(-KV_LEN // tile[1])
    blocks = torch.arange(count[0] * count[1]).reshape(1, 1, *count) % 3 == 0
    shape = Shape(1, 2, 2, Q_LEN, KV_LEN)
    dense = expanded(blocks, tile) & pairs_of(MASKS["causal"], 1, 1)
    expected, _ = dense_attention(*shape.tensors(), allowed=dense)
    for backend, place in (("cpu", torch.device("cpu")), ("triton", DEVICE)):
        plan = from_blocks(blocks.to(place), "causal", tile=tile, device=place)
        inputs = (x.to(place) for x in shape.tensors(torch.float32))
        out = fx.attention(*inputs, mask=plan, backend=backend)
        assert_near(out.cpu(), expected, 1e-5)


def test_a_choice_as_a_numpy_array():
    plan = from_blocks(BLOCKS.numpy(), "causal")
    np.testing.assert_array_equal(plan.states(), from_blocks(BLOCKS, "causal").states())


def test_a_mask_may_have_a_tensor_of_the_same_name():
    blocks = torch.arange(128) % 3 == 0
    plan = from_blocks(BLOCKS, "everything")
    both = fx.BlockPlan.from_blocks(
        BLOCKS, mask=lambda b, h, q, kv: blocks[kv], tile=TILE, q_len=Q_LEN, kv_len=KV_LEN
    )
    allowed = plan.to_dense(tokens=True) & blocks[:KV_LEN].numpy()
    np.testing.assert_array_equal(both.to_dense(tokens=True), allowed)


def test_lengths_are_whole_tiles_by_default():
    plan = fx.BlockPlan.from_blocks(BLOCKS, tile=TILE)
    assert (plan.q_len, plan.kv_len, plan.batch, plan.heads) == (96, 80, 2, 4)


@pytest.mark.parametrize(
    ("blocks", "options", "message"),
    [
        (BLOCKS.int(), {}, "of int32"),
        ([[True]], {}, "a list"),
        (BLOCKS[0], {}, r"\[4, 3, 5\]"),
        (BLOCKS, {"q_len": 97}, "3 tiles of 32 along dimension 2, but q_len is 97, which has 4"),
        (BLOCKS, {"kv_len": 64}, "5 tiles of 16 along dimension 3, but kv_len is 64, which has 4"),
        (BLOCKS, {"tile": (64, 16), "q_len": Q_LEN}, "3 tiles of 64 .* which has 2"),
        (BLOCKS, {"tile": (0, 16)}, "tile is"),
        (BLOCKS, {"batch": 3}, "batch is 3, but the tiles are for 2"),
        (BLOCKS[:, :1], {"mask": MASKS["batch and head"]}, "depends on h, .* 1 of them"),
        (BLOCKS, {"q_offset": -1}, "q_offset"),
    ],
)
def test_what_does_not_fit_is_an_error(blocks, options, message):
    with pytest.raises(ArgumentError, match=message):
        fx.BlockPlan.from_blocks(blocks, **{"tile": TILE} | options)


def test_a_plan_of_another_call_is_an_error():
    q, k, v = Shape(2, 4, 4, Q_LEN, KV_LEN).tensors()
    with pytest.raises(PlanError, match="q_len=96"):
        fx.attention(q, k, v, mask=fx.BlockPlan.from_blocks(BLOCKS, tile=TILE))
    with pytest.raises(PlanError, match="heads=4"):
        fx.attention(q[:, :2], k[:, :2], v[:, :2], mask=from_blocks(BLOCKS, "causal"))


def test_blocks_elsewhere_are_an_error():
    plan = from_blocks(torch.ones(2, 4, 3, 5, dtype=torch.bool, device="meta"), "causal")
    assert plan.kind == "device"
    with pytest.raises(CaptureError, match=r"blocks, captured by blocks_and_.*, is on meta"):
        fx.attention(*Shape(2, 4, 4, Q_LEN, KV_LEN).tensors(), mask=plan)
