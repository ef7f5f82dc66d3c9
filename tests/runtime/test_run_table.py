"""The order in which outer tiles of a table start, held against the plan tile by tile."""

from __future__ import annotations

from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.analysis import BlockPlan, make_plan, table
from flexdsl.analysis.table import RunTable
from flexdsl.runtime import bind, device_plan
from flexdsl.runtime.run_table import longest_first, table_of_kernel, to_device
from support.masks import HEADS, Mask, Shape, masks, shapes
from tests.runtime.test_device_plan import DEVICE, on_device


def orders_of(plan: BlockPlan) -> list[list[int]]:
    """The order of each head that a plan by a table tells apart."""
    made = to_device(table_of_kernel(plan), plan.outer_tiles, DEVICE)
    return made.order.view(-1, plan.outer_tiles).tolist()


def check(lengths: list[int], order: list[int]) -> None:
    """`order` has each outer tile once, longer ones first; of about one length, as they lie.

    Args:
        lengths: how many inner tiles each has.
    """
    assert sorted(order) == list(range(len(lengths)))
    in_order = [lengths[tile] for tile in order]
    for length, shortest in zip(in_order[1:], accumulate(in_order, min), strict=False):
        assert length < 1.25 * shortest or length == 0
    for length in set(lengths):
        alike = [tile for tile in order if lengths[tile] == length]
        assert alike == sorted(alike)
    for before, after in pairwise(order):
        assert lengths[before] >= lengths[after] or before < after


@given(masks(), shapes())
@settings(max_examples=40)
def test_longer_tiles_of_any_table_start_first(mask: Mask, shape: Shape) -> None:
    plan = make_plan(
        mask.program(),
        *(shape.q_len, shape.kv_len),
        batch=2,
        heads=HEADS,
        tile=shape.tile,
        q_offset=shape.q_offset,
    )
    states = plan.states()  # [b, h, q tiles, kv tiles]
    for along, live in ((plan, states != 0), (plan.transposed(), (states != 0).swapaxes(2, 3))):
        orders = orders_of(along.tabulated)
        lengths = live.sum(3).reshape(-1, along.outer_tiles).tolist()
        assert len(orders) == len(lengths)
        for of_head, order in zip(lengths, orders, strict=True):
            check(of_head, order)


ENDS = np.array([20, 200, 90, 0, 160, 200, 33])  # keys that stretches of 30 queries see
OF_BATCHES = np.stack([ENDS, ENDS[::-1]])
WITH_FULL_TILES = {
    "ends": lambda b, h, q, kv: kv < ENDS[q // 30],
    "ends of each head": lambda b, h, q, kv: kv < ENDS[(q // 30 + h) % 7],
    "ends of each batch": lambda b, h, q, kv: kv < OF_BATCHES[b, q // 30],
    "and every third": lambda b, h, q, kv: kv < ENDS[q // 30] or (q // 30 + kv) % 3 == 0,
}


@pytest.mark.parametrize("most_runs", [512, 1])
@pytest.mark.parametrize("name", WITH_FULL_TILES)
def test_the_device_and_the_host_have_one_order(
    name: str, most_runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rows have more runs than there is room for, so that the device's have more tiles:
    its order is that of its own table.
    """
    monkeypatch.setattr(table, "MOST_RUNS_OF_ROW", most_runs)
    program = bind.with_tensors(fx.mask_mod(WITH_FULL_TILES[name]).program, torch.device("cpu"))
    options = {"batch": 2, "heads": HEADS, "tile": (16, 16)}
    host = make_plan(program, 200, 200, **options)
    there = make_plan(on_device(program), 200, 200, device=str(DEVICE), **options)
    for of_host, of_device in ((host, there), (host.transposed(), there.transposed())):
        values, launch = of_device.mask.values, device_plan.launch_compiled
        made = device_plan.make_table(of_device.tabulated, values, DEVICE, launch)
        arrays = (x.cpu().numpy() for x in (made.offsets, made.full_ends, made.starts, made.stops))
        again = to_device(RunTable(*arrays), of_device.outer_tiles, DEVICE)
        assert torch.equal(made.order, again.order)
        if most_runs > 13:
            order = made.order.view(-1, of_device.outer_tiles).tolist()
            expected = orders_of(of_host.tabulated)
            # A table that is made on the device may tell more heads apart.
            assert order == expected * (len(order) // len(expected))


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=50), st.integers(1, 3))
def test_an_order_of_any_lengths(lengths: list[int], heads: int) -> None:
    tiles = torch.tensor([lengths[h:] + lengths[:h] for h in range(heads)], dtype=torch.int32)
    found = longest_first(tiles.view(-1), len(lengths))
    assert found.dtype == torch.int32 and found.shape == (heads * len(lengths),)
    for of_head, order in zip(tiles.tolist(), found.view(heads, -1).tolist(), strict=True):
        check(of_head, order)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3, 3, 9, 3], [2, 0, 1, 3]),  # a global token
        ([1, 2, 3, 4], [3, 2, 1, 0]),  # causal
        ([0, 5, 0, 5], [1, 3, 0, 2]),
        ([8, 9, 10, 11, 12], [4, 2, 3, 0, 1]),  # classes from 8, 10, 12 and 14 on
    ],
)
def test_orders(lengths: list[int], expected: list[int]) -> None:
    assert longest_first(torch.tensor(lengths), len(lengths)).tolist() == expected


def test_tiles_of_global_tokens_start_first() -> None:
    mask = fx.stdlib.longformer(64, global_tokens=np.arange(2048) // 32 == 40)
    plan = fx.plan(mask, 2048, 2048)
    for along in (plan, plan.transposed()):
        assert orders_of(along.tabulated)[0][0] == 40 * 32 // 128
