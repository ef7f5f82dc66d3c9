"""What planning holds at once, beside the table that it makes; no time is asserted."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.bench import plans

TOKENS = 1 << 20
MB = 1 << 20
# What is looked at together at any length: 2048 boxes or 4096 rows, of some thirty numbers each.
FLOOR = 5 * MB // 4
CUTS = np.sort(np.random.default_rng(0).choice(TOKENS - 1, 4095, replace=False) + 1)
LENGTHS = np.diff([0, *CUTS, TOKENS]).tolist()
RANDOM = np.random.default_rng(0).integers(0, TOKENS // 64, (8, TOKENS // 64, 3))


def peak_of(made: Callable[[], fx.BlockPlan]) -> tuple[fx.BlockPlan, int]:
    """A plan, and the bytes allocated at once while it is made again."""
    made()
    tracemalloc.start()
    plan = made()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return plan, peak


@pytest.mark.parametrize("name", ["documents", "2-D neighbourhood", "3-D tiles"])
def test_a_large_table_takes_less_than_four_times_its_bytes(name):
    mask = fx.mask_mod(plans.MASKS[name](TOKENS))
    plan, peak = peak_of(lambda: fx.plan(mask, TOKENS, TOKENS))
    assert plan.kind == "table" and peak < 4 * plan.nbytes


RADIAL = stdlib.radial_token(33, 3971, first_frame=True), 33 * 3971
GLOBAL = stdlib.longformer(256, global_tokens=np.arange(1 << 17) % 1000 == 0), 1 << 17


@pytest.mark.parametrize(
    ("mask", "length"),
    [RADIAL, GLOBAL, (stdlib.strided_blocks(64, 8, 16), 1 << 17)],
    ids=["periods", "parts", "one step"],
)
def test_tables_by_the_form_of_the_mask_take_less_than_four_times_their_bytes(mask, length):
    plan, peak = peak_of(lambda: fx.plan(mask, length, length, heads=8))
    assert plan.kind == "table" and peak < 4 * plan.nbytes


@pytest.mark.parametrize("name", ["documents", "2-D neighbourhood", "3-D tiles"])
def test_the_table_along_the_other_axis_takes_less_than_four_times_its_bytes(name):
    mask = fx.mask_mod(plans.MASKS[name](TOKENS))
    made = fx.plan(mask, TOKENS, TOKENS)
    plan, peak = peak_of(lambda: replace(made).transposed())
    assert plan.kind == "table" and peak < 4 * plan.nbytes


WINDOWS = {
    "window_2d": stdlib.window_2d((1022, 1022), 7),
    "shifted_window": stdlib.shifted_window((1022, 1022), 7),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_table_of_windows_is_found_in_parts_of_the_rows(name):
    """Nothing is as long as the axis: the windows of 7 x 7 are cut into 150000 runs of keys."""
    plan, peak = peak_of(lambda: fx.plan(WINDOWS[name], 1022 * 1022, 1022 * 1022))
    assert plan.kind == "table" and peak < 4 * plan.nbytes


ALL = {
    "ragged prefixes": stdlib.shared_prefix(LENGTHS, [n // 4 * 4 for n in range(4096)]),
    "whole prefixes": stdlib.shared_prefix([4096, *[2048] * 510], [0] * 511),
    "flamingo": stdlib.flamingo([[64 * n, 64 * n + 300] for n in range(TOKENS // 64)], 64),
    "bigbird": stdlib.bigbird(RANDOM, 64),
    "timesformer_spatial": stdlib.timesformer_spatial(196),
    "strided_heads": stdlib.strided_heads(64, 16, 8, 8),
}


@pytest.mark.parametrize("name", ALL)
def test_a_plan_takes_four_times_its_bytes_or_what_is_looked_at_together(name):
    plan, peak = peak_of(lambda: fx.plan(ALL[name], TOKENS, TOKENS, heads=8))
    assert peak < max(4 * plan.nbytes, FLOOR)


def test_parts_that_or_joins_take_less_than_four_times_the_bytes_of_their_table_when_it_is_small():
    length = 1 << 17
    mask = stdlib.bigbird(RANDOM[:, : length // 64] % (length // 64), 64)
    plan, peak = peak_of(lambda: fx.plan(mask, length, length, heads=8))
    assert plan.kind == "table" and peak < 4 * plan.nbytes


SMALL = {
    "neighborhood": (stdlib.neighborhood((256, 512), 7, stride=2, dilation=2), 1 << 17),
    "shifted_window": (stdlib.shifted_window((252, 518), 7), 252 * 518),
    "sliding_tile": (stdlib.sliding_tile((30, 48, 80), (3, 3, 3), text=256), 115456),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_table_takes_a_megabyte_at_most(name):
    """What is looked at together is as much whatever the length is."""
    mask, length = SMALL[name]
    plan, peak = peak_of(lambda: fx.plan(mask, length, length))
    assert plan.kind == "table" and plan.nbytes < MB // 8 and peak < MB


@pytest.mark.parametrize("name", ["causal", "sinks + window", "chunks", "block diffusion"])
def test_a_closed_form_looks_at_few_tiles(name):
    """Also where two intervals meet, which is looked for among 8192 rows of tiles."""
    mask = fx.mask_mod(plans.MASKS[name](TOKENS))
    plan, peak = peak_of(lambda: fx.plan(mask, TOKENS, TOKENS))
    assert plan.kind == "closed-form" and peak < MB // 8


def test_sinks_and_windows_of_each_head_are_a_closed_form_of_few_tiles():
    sinks, keys = np.array([4, 100, 300, 1000]), np.array([1024, 2048, 100, 5000])
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and (kv < sinks[h] or q - kv < keys[h]))
    plan, peak = peak_of(lambda: fx.plan(mask, TOKENS, TOKENS, heads=4))
    assert plan.kind == "closed-form" and peak < MB // 4
