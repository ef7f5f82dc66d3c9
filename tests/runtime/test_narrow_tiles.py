"""Where the forward kernel's tiles have 64 keys: what is counted, and who is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.codegen import Phase
from flexdsl.ir import Kind
from flexdsl.runtime import bind
from flexdsl.runtime.call import Call
from flexdsl.runtime.launch import candidates
from flexdsl.runtime.narrow_tiles import narrow_pays
from flexdsl.runtime.tuning import blocks_config, configs, narrow_config
from tests.runtime.test_mask_bits import explained

GRID = (32, 32)
CLOSE = stdlib.window_2d(GRID, 8)
APART = stdlib.dilated_window(512, 3)


def call_of(mask, length, dim=128, heads=2, q_offset=0):
    q, k, v = (torch.zeros(1, heads, length, dim, dtype=torch.float16) for _ in range(3))
    lengths = bind.lengths_of(q, k, q_offset)
    reading = bind.read(bind.source_of(mask, Kind.MASK), None, lengths, q.device)
    bound = bind.bind(reading.mask, None, lengths, (0, 0))
    return Call(bound, 0.1, {"query": q, "key": k, "value": v}, {}, hopper=True)


def tiles_of_consumers(mask, length, width):
    """Tiles of 64 queries by `width` keys that have a pair, on plain numbers."""
    dense = np.array([[mask(0, 0, q, kv) for kv in range(length)] for q in range(length)])
    blocks = dense.reshape(length // 64, 64, length // width, width)
    return int(blocks.any((1, 3)).sum())


SMALL = (16, 16)


@pytest.mark.parametrize(
    ("mask", "length"),
    [
        (CLOSE, 1024),
        (stdlib.neighborhood(SMALL, 5).in_order(stdlib.TileOrder(SMALL, (8, 8))), 256),
    ],
)
def test_narrow_tiles_pay_where_they_leave_out_enough(mask, length):
    call = call_of(mask, length)
    wide, *_ = configs(Phase.FORWARD, 90, 128, 2, hopper=True)
    narrow = narrow_config(128)
    of_wide, of_narrow = (tiles_of_consumers(mask, length, width) / 2 for width in (128, 64))
    assert narrow_pays(call, wide, narrow) == (2 * of_narrow < 3 * (of_wide + length // 128))
    assert narrow_pays(call, wide, narrow)
    assert candidates(Phase.FORWARD, call, 90)[:2] == (narrow, wide)


@pytest.mark.parametrize(
    ("mask", "dim"),
    [
        (APART, 128),  # as many pairs in each half
        (None, 128),
        (stdlib.causal(), 128),
        (stdlib.sliding_window(100), 128),  # not read as bits
        (stdlib.document(torch.arange(1024) // 100 % 2), 128),  # its table is not known here
        (CLOSE, 64),  # not measured there
        (CLOSE, 256),
    ],
)
def test_where_they_do_not_or_nobody_knows(mask, dim):
    call = call_of(mask, 1024, dim)
    expr = None if mask is None else mask.program.expr
    wide = configs(Phase.FORWARD, 90, dim, 2, expr, hopper=True)
    assert candidates(Phase.FORWARD, call, 90) == wide


def test_other_gpus_and_phases_are_not_concerned():
    call = call_of(CLOSE, 1024)
    narrow = narrow_config(128)
    assert narrow not in candidates(Phase.BACKWARD, call, 90)
    portable = Call(call.bound, 0.1, call.tensors, {})
    assert narrow not in candidates(Phase.FORWARD, portable, 90)


def test_explain_tells_the_tile():
    forward, _ = explained(CLOSE, length=1024, dim=128)
    assert "gluon, tile 128 x 64, 4 warps, 4 stages" in forward
    assert "where that does not fit the GPU: gluon, tile 128 x 128" in forward
    plan = fx.plan(CLOSE, 1024, 1024, tile=(128, 64))
    assert f"{plan.density:.1%} of 128 x 64 tiles live" in forward


CHOSEN = torch.rand(2, 20, 20, generator=torch.Generator().manual_seed(0)) < 0.3
PICKS = torch.arange(40, dtype=torch.int32).reshape(20, 2) % 20
ENDS = torch.arange(20, dtype=torch.int32) * 7 % 20
BLOCKS = {
    "of each head": stdlib.block_table(CHOSEN, 64),
    "wide ones": stdlib.block_table(CHOSEN, (64, 128)),
    "high ones": stdlib.block_table(CHOSEN, (128, 64)),
    "BigBird": stdlib.bigbird(PICKS),
    "causal": stdlib.block_table(CHOSEN, 64) & stdlib.causal(),
}


@pytest.mark.parametrize("dim", [64, 96, 128, 192, 256])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_64_are_taken_64_keys_at_a_time(name, dim):
    """The others stay, for GPUs that this one does not fit; two consumers have 64 rows each."""
    for q_offset in (0, 64):
        call = call_of(BLOCKS[name], 1024, dim, q_offset=q_offset)
        first, *others = candidates(Phase.FORWARD, call, 90)
        assert first == blocks_config(dim) and first.tile == (128, 64) and first.consumers == 2
        wide = configs(Phase.FORWARD, 90, dim, 2, call.bound.mask.expr, hopper=True)
        assert others == [c for c in wide if c != first]
        spec = call.spec(Phase.FORWARD, call.plan(Phase.FORWARD, first), first)
        assert spec.skips and not spec.mask_bits and spec.mask is not None


def has_ended(b, h, q, kv):
    return kv // 64 < ENDS[q // 64]


@pytest.mark.parametrize(
    ("mask", "q_offset"),
    [
        (stdlib.block_table(CHOSEN, 128), 0),
        (stdlib.block_table(CHOSEN, (128, 256)), 0),
        (stdlib.block_table(CHOSEN, 32), 0),  # blocks that a consumer's tiles have some of
        (stdlib.block_table(CHOSEN, 96), 0),
        (stdlib.block_table(CHOSEN, 64), 32),  # a consumer's rows are of two blocks
        (stdlib.document(torch.arange(1280) // 100), 0),
        (fx.mask_mod(has_ended), 0),  # tiles are known by a formula
    ],
)
def test_other_blocks_are_not(mask, q_offset):
    call = call_of(mask, 600, 64, q_offset=q_offset)
    expr = call.bound.mask.expr
    assert candidates(Phase.FORWARD, call, 90) == configs(
        Phase.FORWARD, 90, 64, 2, expr, hopper=True
    )
    for dim in (64, 128, 256):  # such a tile may be taken for another reason
        call, config = call_of(mask, 600, dim, q_offset=q_offset), blocks_config(dim)
        plan = call.plan(Phase.FORWARD, config)
        assert not call.takes_blocks(Phase.FORWARD, plan, config)
        assert not call.skips(Phase.FORWARD, plan, config)


def test_blocks_of_other_gpus_and_phases():
    call = call_of(BLOCKS["of each head"], 1024)
    backward = candidates(Phase.BACKWARD, call, 90)
    assert backward == configs(Phase.BACKWARD, 90, 128, 2, call.bound.mask.expr, hopper=True)
    portable = Call(call.bound, 0.1, call.tensors, {})
    for gpu in (80, 90, 100):
        assert blocks_config(128) not in candidates(Phase.FORWARD, portable, gpu)


def test_explain_tells_that_blocks_are_skipped():
    words = "its consumers skip tiles that have no pair for their own 64 rows"
    for name in ("of each head", "causal"):
        forward, backward = explained(BLOCKS[name], length=1024, dim=128)
        assert words in forward and "gluon, tile 128 x 64, 4 warps, 4 stages" in forward
        assert "mask is read as bits" not in forward
        assert words.replace("rows", "keys") in backward
        seen = CHOSEN[:, :16, :16] if name == "of each head" else CHOSEN[:, :16, :16].tril()
        part = f"choose blocks, and {seen.float().mean():.1%} of 64 x 64 blocks are live"
        assert part in forward and part in backward
    for block in (64, 128):
        plan = fx.BlockPlan.from_blocks(CHOSEN[None], tile=(block, block))
        assert (words in explained(plan, length=20 * block, dim=128)[0]) == (block == 64)
    assert words not in explained(stdlib.block_table(CHOSEN, 128), length=1024, dim=128)[0]
    assert words not in explained(BLOCKS["causal"], gpu=80, length=1024, dim=128)[0]
