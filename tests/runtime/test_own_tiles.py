"""Tables for consumers that skip tiles, against the mask pair by pair."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import make_plan
from flexdsl.codegen import Language, Phase, Role
from flexdsl.ir import Kind
from flexdsl.runtime import bind, device_plan
from flexdsl.runtime.call import Call, value_of
from flexdsl.runtime.call_table import table_of
from flexdsl.runtime.launch import candidates, kernel_of
from flexdsl.runtime.own_tiles import own_tiles
from flexdsl.runtime.run_table import table_of_kernel
from tests.runtime.test_mask_bits import DEVICE, explained

FULL, MASKED = 1, 2


def tiles_of(table, row):
    """The tiles of a row, full ones and masked ones in the order of their runs, with their run."""
    ends = int(table.offsets[row]), int(table.full_ends[row]), int(table.offsets[row + 1])
    return [
        [(t, run) for run in range(*part) for t in range(table.starts[run], table.stops[run])]
        for part in (ends[:2], ends[1:])
    ]


def check(plan, dense):
    """Every masked tile is for the consumers that have a pair in it, and nothing else has changed.

    Args:
        dense: the mask pair by pair, on plain numbers: [batch, heads, q, kv].
    """
    plan = plan.tabulated
    own, before = own_tiles(plan), table_of_kernel(plan)
    (height, width), consumers = plan.tile_shape, plan.tile_shape[0] // 64
    everyone, pairs = 2**consumers - 1, []
    for row in range(before.rows):
        b, h = divmod(row // plan.q_tiles, plan.scene.grid.heads)
        rows = dense[b, h, row % plan.q_tiles * height :][:height]
        (full, masked), wanted = tiles_of(own.table, row), tiles_of(before, row)
        assert [sorted(t for t, _ in part) for part in (full, masked)] == [
            sorted(t for t, _ in part) for part in wanted
        ]
        assert all(own.kinds[run] == everyone << 2 | FULL for _, run in full)
        order, met = [], Counter()
        for tile, run in masked:
            columns = rows[:, tile * width : (tile + 1) * width]
            has = [columns[g * 64 : (g + 1) * 64].any() for g in range(consumers)]
            groups = sum(1 << g for g in range(consumers) if has[g])
            assert own.kinds[run] == groups << 2 | MASKED
            order.append((groups != everyone, met[groups], groups, tile))
            met[groups] += 1
            pairs += has
        assert order == sorted(order)
        for some in met:
            assert [t for *_, g, t in order if g == some] == sorted(
                t for *_, g, t in order if g == some
            )
    assert (own.tiles, own.skipped) == (len(pairs), len(pairs) - sum(pairs))


NUMBERS = st.lists(st.integers(1, 9), min_size=5, max_size=5)


@given(
    st.tuples(st.integers(1, 270), st.integers(1, 140)),
    st.sampled_from([(64, 16), (128, 16), (128, 32), (192, 32)]),
    NUMBERS,
)
@settings(max_examples=60)
def test_tiles_of_masks_of_blocks(lengths, tile, numbers):
    """Blocks of 64 rows with more and with less of 16 keys; full ones, and runs of both."""
    a, b, most, hole, square = numbers

    def function(b_, h, q, kv):
        some = (q // 64 * a + kv // 16 * b + h) % 7 < most and (q + kv) % 9 > hole % 3
        return some or kv // 32 * square == q // 64

    plan = make_plan(fx.mask_mod(function).program, *lengths, heads=2, tile=tile)
    dense = np.zeros((1, 2, *lengths), bool)
    for at in np.ndindex(*dense.shape):
        dense[at] = function(*at)
    check(plan, dense)


IDS = np.arange(600) // 9 % 5


def test_where_they_are_not_known():
    """Captured tensors may come to hold something else; a kernel makes the tables of some."""
    near = make_plan(stdlib.neighborhood((20, 30), 5).program, 600, 600)
    assert own_tiles(near) is not None
    assert own_tiles(replace(near, device="cuda:0", table=None)) is None
    ids = fx.mask_mod(lambda b, h, q, kv: IDS[q] == IDS[kv])
    assert own_tiles(make_plan(ids.program, 600, 600)) is None
    assert own_tiles(make_plan(stdlib.causal().program, 600, 600)) is None  # a closed form


def near(b, h, q, kv):
    """A grid of 32 columns in tiles of 8 x 8, one after the other; three rows and columns away."""
    rows = q // 256 * 8 + q % 64 // 8 - kv // 256 * 8 - kv % 64 // 8
    columns = q // 64 % 4 * 8 + q % 8 - kv // 64 % 4 * 8 - kv % 8
    return rows >= -3 and rows <= 3 and columns >= -3 and columns <= 3


NEAR = fx.mask_mod(near)
ALIKE = fx.mask_mod(lambda b, h, q, kv: (q // 128 + kv // 64) % 2 == 0 and (q + kv) % 3 > 0)
WORDS = r"its consumers skip (\d+) of (\d+) tiles of 64 rows in masked tiles, which have no pair"


def test_explain_tells_how_many_tiles_are_skipped():
    forward, backward = explained(NEAR, length=768, dim=128)
    plan = fx.plan(NEAR, 768, 768, tile=(128, 64))
    live = fx.plan(NEAR, 768, 768, tile=(64, 64)).live_tiles
    skipped, tiles = map(int, re.search(WORDS, forward).groups())
    assert (tiles, skipped) == (2 * plan.live_tiles, 2 * plan.live_tiles - live)
    assert "its consumers skip" not in backward


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        (NEAR, {"dim": 64}),  # not measured there
        (NEAR, {"dim": 256}),
        (NEAR, {"gpu": 80}),
        (ALIKE, {}),  # all rows of a tile have pairs
    ],
)
def test_where_no_tile_is_skipped(mask, options):
    assert "its consumers skip" not in explained(mask, length=768, **{"dim": 128, **options})[0]


def table_and_kernel(mask, dim):
    """What a forward kernel is given of its plan, and its digest."""
    q, k, v = (torch.randn(1, 2, 768, dim, dtype=torch.float16, device=DEVICE) for _ in range(3))
    lengths = bind.lengths_of(q, k, 0)
    reading = bind.read(bind.source_of(mask, Kind.MASK), None, lengths, DEVICE)
    bound = bind.bind(reading.mask, None, lengths, (0, 0))
    call = Call(bound, 0.1, {"query": q, "key": k, "value": v}, {}, {}, hopper=True)
    config = candidates(Phase.FORWARD, call, 90)[0]
    plan = call.plan(Phase.FORWARD, config)
    kernel = kernel_of(Phase.FORWARD, Language.GLUON, call.spec(Phase.FORWARD, plan, config))
    table = table_of(kernel.arguments, plan, call, device_plan.launch_compiled)
    arguments = [a for a in kernel.arguments if a.role is Role.TABLE]
    return {a.of: value_of(a, call, plan, table, config) for a in arguments}, kernel.digest


def test_kernels_get_the_table_that_they_read():
    """One plan has a table of each kind where kernels of both kinds read it."""
    skipping, digest = table_and_kernel(NEAR, 128)
    without, other = table_and_kernel(NEAR, 64)
    own = own_tiles(fx.plan(NEAR, 768, 768, tile=(128, 64)))
    assert skipping["kinds"].tolist() == own.kinds.tolist()
    assert skipping["starts"].tolist() == own.table.starts.tolist()
    assert "kinds" not in without and len(without["starts"]) < len(own.kinds)
    assert digest != other
    halves = fx.mask_mod(lambda b, h, q, kv: (q // 64 + kv // 128) % 2 == 0 and (q + kv) % 3 > 0)
    assert table_and_kernel(halves, 128)[1] == digest
