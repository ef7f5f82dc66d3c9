"""One call of each mask and score of the library, at a small shape, for tests that run them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import flexdsl as fx
from flexdsl import stdlib


@dataclass(frozen=True)
class Sample:
    """A variant and lengths that it is made for; `learned` are the shapes of what is learned."""

    make: Callable[..., fx.Mod]
    q_len: int = 40
    kv_len: int = 40
    learned: tuple[tuple[int, ...], ...] = ()

    def tensors(self) -> list[torch.Tensor]:
        """The learned tensors: positive, float64."""
        generator = torch.Generator().manual_seed(0)
        return [
            torch.rand(shape, generator=generator, dtype=torch.float64) + 0.25
            for shape in self.learned
        ]


BATCH, HEADS = 2, 4
_IDS = np.repeat(np.arange(5), 8)
_BLOCKS = np.random.default_rng(0).random((HEADS, 10, 10)) < 0.4
_RANDOM = np.random.default_rng(1).integers(0, 10, (HEADS, 10, 2))
_PATHS = np.random.default_rng(2).integers(0, 5, (BATCH, 40, 40))

MASKS = {
    "attention_sink": Sample(lambda: stdlib.attention_sink(3, 5)),
    "bigbird": Sample(lambda: stdlib.bigbird(_RANDOM, 4)),
    "block_diffusion": Sample(lambda: stdlib.block_diffusion(20, 4)),
    "block_table": Sample(lambda: stdlib.block_table(_BLOCKS, 4)),
    "causal": Sample(stdlib.causal),
    "causal_bottom_right": Sample(lambda: stdlib.causal_bottom_right(30, 40), 30),
    "dilated_window": Sample(lambda: stdlib.dilated_window(9, 3)),
    "document": Sample(lambda: stdlib.document(_IDS, within=stdlib.prefix_lm(3))),
    "document_causal": Sample(lambda: stdlib.document_causal(offsets=[0, 7, 9, 40])),
    "draft_blocks": Sample(lambda: stdlib.draft_blocks(10, 5), 30),
    "elastic_window": Sample(lambda: stdlib.elastic_window([1, 0, 2, 1], [1, 2, 3, 4], 4)),
    "flamingo": Sample(lambda: stdlib.flamingo([[0, 9], [9, 40], [12, 30]], 8), 40, 24),
    "flash_window": Sample(lambda: stdlib.flash_window(40, 30, 4, 2), 40, 30),
    "grid_2d": Sample(lambda: stdlib.grid_2d((4, 10), (2, 5))),
    "longformer": Sample(lambda: stdlib.longformer(3, global_tokens=np.arange(40) % 17 == 0)),
    "neighborhood": Sample(
        lambda: stdlib.neighborhood((5, 8), (3, 4), stride=(1, 2), dilation=(1, 2)), 40, 40
    ),
    "nsa_compressed": Sample(lambda: stdlib.nsa_compressed(4), 40, 10),
    "power_attention": Sample(lambda: stdlib.power_attention(2, 2, 1)),
    "prefix_lm": Sample(lambda: stdlib.prefix_lm(11)),
    "radial_blocks": Sample(lambda: stdlib.radial_blocks(40, 32, 8, 0.01, "wan", 1)),
    "radial_token": Sample(lambda: stdlib.radial_token(8, 5, first_frame=True)),
    "shared_prefix": Sample(lambda: stdlib.shared_prefix([10, 8, 12, 10], [0, 0, 0, 3])),
    "shifted_window": Sample(lambda: stdlib.shifted_window((4, 8), 4), 32, 32),
    "sliding_tile": Sample(
        lambda: stdlib.sliding_tile((2, 4, 4), (1, 1, 2), (2, 2, 1), text=5, even="left")
    ),
    "sliding_window": Sample(lambda: stdlib.sliding_window(7)),
    "sparse_fixed": Sample(lambda: stdlib.sparse_fixed(8, 2, 4)),
    "strided": Sample(lambda: stdlib.strided(6)),
    "strided_blocks": Sample(lambda: stdlib.strided_blocks(2, (2, 3), 4)),
    "strided_heads": Sample(
        lambda: stdlib.strided_heads(2, 2, 4, HEADS, kv_heads=2, dense_heads=1)
    ),
    "svg_hunyuan": Sample(lambda: stdlib.svg_hunyuan(4, 7, 6, 1.5, 4)),
    "svg_spatial": Sample(lambda: stdlib.svg_spatial(5, 7, 1, round_to=3, first_frame=True)),
    "svg_temporal": Sample(lambda: stdlib.svg_temporal(5, 5, 7, 2)),
    "svg_wan": Sample(lambda: stdlib.svg_wan(8, 1, 3)),
    "timesformer_spatial": Sample(lambda: stdlib.timesformer_spatial(3)),
    "timesformer_temporal": Sample(lambda: stdlib.timesformer_temporal(3)),
    "tree": Sample(lambda: stdlib.tree([-1, *(n // 2 for n in range(15))], 24), 16),
    "view_time": Sample(lambda: stdlib.view_time(4, 5, 2)),
    "window_2d": Sample(lambda: stdlib.window_2d((4, 10), (2, 5))),
}

SCORES = {
    "alibi": Sample(lambda s: stdlib.alibi(slopes=s), learned=((HEADS,),)),
    "alibi_bidirectional": Sample(lambda: stdlib.alibi_bidirectional(HEADS)),
    "dual_chunk_bias": Sample(lambda t: stdlib.dual_chunk_bias(t, 12, 3), learned=((13, HEADS),)),
    "graphormer_bias": Sample(lambda t: stdlib.graphormer_bias(t, _PATHS), learned=((HEADS, 5),)),
    "ipa_points": Sample(
        stdlib.ipa_points, learned=((HEADS, 40, 2, 3), (HEADS, 40, 2, 3), (HEADS,))
    ),
    "learned_bias": Sample(lambda t: stdlib.learned_bias(t, "hr"), learned=((HEADS, 21),)),
    "lightning_decay": Sample(lambda: stdlib.lightning_decay(HEADS)),
    "lowrank_bias": Sample(stdlib.lowrank_bias, learned=((HEADS, 40, 3), (HEADS, 40, 3))),
    "retention": Sample(lambda: stdlib.retention(HEADS)),
    "sandwich": Sample(lambda: stdlib.sandwich(HEADS, 8)),
    "selective_temperature": Sample(stdlib.selective_temperature, learned=((HEADS,),)),
    "softcap": Sample(lambda: stdlib.softcap(2.0)),
    "spatial_distance": Sample(
        lambda x, y, w: stdlib.spatial_distance(x, y, weight=w),
        learned=((40, 3), (40, 3), (HEADS,)),
    ),
    "swin_bias": Sample(lambda t: stdlib.swin_bias(t, (5, 8)), learned=((9 * 15, HEADS),)),
    "t5_bias": Sample(lambda t: stdlib.t5_bias(t, max_distance=20), learned=((16, HEADS),)),
}

SAMPLES = MASKS | SCORES
