"""Every mask of the library at 131072 tokens: planned in a fraction of a second, on one core.

On an idle core each takes less than 0.2 s. The limit here is what no slow or busy machine comes
near, and what one mask evaluated pair by pair is far beyond.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

import flexdsl as fx
from flexdsl import stdlib
from tests.stdlib.samples import MASKS as SAMPLES

LENGTH, HEADS = 1 << 17, 8
LIMIT = 4.0  # seconds
RNG = np.random.default_rng(0)
CUTS = np.sort(RNG.choice(LENGTH - 1, 511, replace=False) + 1)
IDS = np.cumsum(np.bincount(CUTS, minlength=LENGTH)).astype(np.int32)
LENGTHS = np.diff([0, *CUTS[::8], LENGTH]).tolist()
RANDOM = RNG.integers(0, LENGTH // 64, (HEADS, LENGTH // 64, 3))
BLOCKS = RNG.random((HEADS, LENGTH // 128, LENGTH // 128)) < 0.05
SPANS = stdlib.moa_spans(np.linspace(0, 1024, HEADS), np.linspace(0.05, 0.5, HEADS), LENGTH)
IMAGES = [[64 * n, 64 * n + 300] for n in range(LENGTH // 64)]
GLOBAL = np.arange(LENGTH) % 1000 == 0
TREE = [-1, *(n // 2 for n in range(1023))]

Made = fx.Mod | tuple[fx.Mod, int, int]  # with q_len and kv_len, where they are not LENGTH
LONG: dict[str, Callable[[], Made]] = {
    "attention_sink": lambda: stdlib.attention_sink(4, 1024),
    "bigbird": lambda: stdlib.bigbird(RANDOM, 64),
    "block_diffusion": lambda: stdlib.block_diffusion(LENGTH // 2, 32),
    "block_table": lambda: stdlib.block_table(BLOCKS, 128),
    "causal": stdlib.causal,
    "causal_bottom_right": lambda: stdlib.causal_bottom_right(LENGTH, LENGTH),
    "dilated_window": lambda: stdlib.dilated_window(1000, 5),
    "document": lambda: stdlib.document(IDS, within=stdlib.prefix_lm(16)),
    "document_causal": lambda: stdlib.document_causal(IDS),
    "draft_blocks": lambda: (stdlib.draft_blocks(LENGTH - 1024, 16), 1024, LENGTH),
    "elastic_window": lambda: stdlib.elastic_window(*SPANS),
    "flamingo": lambda: stdlib.flamingo(IMAGES, 64),
    "flash_window": lambda: stdlib.flash_window(LENGTH, LENGTH, 512, 128),
    "grid_2d": lambda: stdlib.grid_2d((256, 512), (32, 32)),
    "longformer": lambda: stdlib.longformer(256, global_tokens=GLOBAL),
    "neighborhood": lambda: stdlib.neighborhood((256, 512), 7, stride=2, dilation=2),
    "nsa_compressed": lambda: (stdlib.nsa_compressed(16), LENGTH, LENGTH // 16),
    "power_attention": stdlib.power_attention,
    "prefix_lm": lambda: stdlib.prefix_lm(1024),
    "radial_blocks": lambda: stdlib.radial_blocks(LENGTH, LENGTH - 1024, 32, 0.2, "wan"),
    "radial_token": lambda: (stdlib.radial_token(33, 3971, first_frame=True), 131043, 131043),
    "shared_prefix": lambda: stdlib.shared_prefix(
        LENGTHS, [n // 4 * 4 for n in range(len(LENGTHS))]
    ),
    "shifted_window": lambda: (stdlib.shifted_window((252, 518), 7), 130536, 130536),
    "sliding_tile": lambda: (
        stdlib.sliding_tile((30, 48, 80), (3, 3, 3), text=256),
        115456,
        115456,
    ),
    "sliding_window": lambda: stdlib.sliding_window(1024),
    "sparse_fixed": lambda: stdlib.sparse_fixed(512, 32, 4),
    "strided": lambda: stdlib.strided(512),
    "strided_blocks": lambda: stdlib.strided_blocks(64, 8, 16),
    "strided_heads": lambda: stdlib.strided_heads(64, 16, 8, HEADS),
    "svg_hunyuan": lambda: stdlib.svg_hunyuan(33, 3600, 200, 2.0),
    "svg_spatial": lambda: stdlib.svg_spatial(226, 3600, 1.5, first_frame=True),
    "svg_temporal": lambda: stdlib.svg_temporal(226, 36, 3634, 2.0),
    "svg_wan": lambda: stdlib.svg_wan(1560, 2.0),
    "timesformer_spatial": lambda: stdlib.timesformer_spatial(196),
    "timesformer_temporal": lambda: stdlib.timesformer_temporal(196),
    "tree": lambda: (stdlib.tree(TREE, LENGTH - 1024), 1024, LENGTH),
    "view_time": lambda: (stdlib.view_time(8, 16, 900), 115200, 115200),
    "window_2d": lambda: (stdlib.window_2d((252, 511), 7), 128772, 128772),
}


def test_every_mask_is_here() -> None:
    assert set(LONG) == set(SAMPLES)


@pytest.mark.parametrize("name", LONG)
def test_a_long_plan_takes_little_time(name: str) -> None:
    made = LONG[name]()
    mask, *lengths = made if isinstance(made, tuple) else (made, LENGTH, LENGTH)
    start = time.process_time()
    plan = fx.plan(mask, *lengths, heads=HEADS)
    assert time.process_time() - start < LIMIT
    assert 0 < plan.density <= 1
