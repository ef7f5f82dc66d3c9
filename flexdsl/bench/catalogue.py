"""Every mask and score of the standard library at a length for which it is made: 16384 and more.

Sizes are those of the papers where they say any: Gemma 2's window of 4096, a video of 1024 tokens a
frame, Swin's windows on an image of 128 x 128. What a variant captures is on the device asked for.
Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import flexdsl as fx

N, HEADS, DIM = 16384, 16, 128
SIDE = 128  # of an image of N tokens
FRAME = 1024  # tokens of a frame, 16 of which are a video of N tokens


@dataclass(frozen=True)
class Variant:
    """A variant and the shape that it is measured at.

    Attributes:
        name: what `--only` takes.
        make: the mod, with its captured tensors on a device.
        q_len, kv_len, batch, heads: of the call; as many keys as queries where `kv_len` is 0.
    """

    name: str
    make: Callable[[torch.device], fx.Mod]
    q_len: int = N
    kv_len: int = 0
    batch: int = 1
    heads: int = HEADS

    @property
    def keys(self) -> int:
        """Number of keys."""
        return self.kv_len or self.q_len

    def tensors(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """q, k and v: normally distributed, the same ones every time."""
        generator = torch.Generator(device=device).manual_seed(1)
        return [
            torch.randn(
                (self.batch, self.heads, length, DIM),
                device=device,
                dtype=dtype,
                generator=generator,
            )
            for length in (self.q_len, self.keys, self.keys)
        ]

    def __str__(self) -> str:
        length = f"{self.q_len}" if self.keys == self.q_len else f"{self.q_len}:{self.keys}"
        return f"B{self.batch} H{self.heads} N{length} D{DIM}"


def _learned(device: torch.device, *shape: int) -> Tensor:
    """Numbers as a model would learn them, in the element type of its weights."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(shape, generator=generator).to(device, torch.bfloat16)


def _integers(device: torch.device, values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values, np.int32), device=device)


def _documents() -> list[int]:
    """Offsets of twelve documents of uneven lengths."""
    cuts = np.random.default_rng(0).choice(N - 1, 11, replace=False) + 1
    return [0, *sorted(cuts.tolist()), N]


def _bigbird(device: torch.device) -> fx.Mod:
    blocks = N // 64
    random = np.random.default_rng(0).integers(0, blocks, (blocks, 3))
    return fx.stdlib.bigbird(_integers(device, random))


def _block_table(device: torch.device, size: int) -> fx.Mod:
    """A fifth of all blocks, drawn for each head."""
    kept = np.random.default_rng(0).random((HEADS, N // size, N // size)) < 0.2
    kept |= np.eye(N // size, dtype=bool)
    return fx.stdlib.block_table(torch.as_tensor(kept, device=device), size)


def _elastic_window(device: torch.device) -> fx.Mod:
    """Windows of 512 to 8192 keys."""
    local = [8 * (head + 1) for head in range(HEADS)]
    return fx.stdlib.elastic_window(_integers(device, [1] * HEADS), _integers(device, local))


def _flamingo(device: torch.device) -> fx.Mod:
    """Passages of 2048 text tokens with eight images of 256 tokens each."""
    ends = [[image // 8 * 2048, (image // 8 + 1) * 2048] for image in range(N // 256)]
    return fx.stdlib.flamingo(_integers(device, ends), 256)


def _longformer(device: torch.device) -> fx.Mod:
    return fx.stdlib.longformer(1024, global_tokens=torch.arange(N, device=device) < 64)


def _neighborhood_in_tiles(device: torch.device, side: int) -> fx.Mod:
    order = fx.stdlib.TileOrder((side, side), (8, 8))
    return fx.stdlib.neighborhood((side, side), 13).in_order(order)


def _tree(device: torch.device) -> fx.Mod:
    """A binary tree of 64 drafted tokens after a long prefix."""
    return fx.stdlib.tree(_integers(device, [-1, *(n // 2 for n in range(63))]), N)


def _paths(device: torch.device) -> Tensor:
    generator = torch.Generator(device=device).manual_seed(0)
    options: dict[str, Any] = {"device": device, "dtype": torch.uint8, "generator": generator}
    return torch.randint(0, 32, (N, N), **options)


MASKS: tuple[Variant, ...] = (
    Variant("attention_sink", lambda d: fx.stdlib.attention_sink(4, 4096)),
    Variant("bigbird", _bigbird),
    Variant("block_diffusion", lambda d: fx.stdlib.block_diffusion(N // 2, 32)),
    Variant("block_table", lambda d: _block_table(d, 128)),
    Variant("block_table_64", lambda d: _block_table(d, 64)),
    Variant("causal", lambda d: fx.stdlib.causal()),
    Variant(
        "causal_bottom_right",
        lambda d: fx.stdlib.causal_bottom_right(N // 2, N),
        q_len=N // 2,
        kv_len=N,
    ),
    Variant("dilated_window", lambda d: fx.stdlib.dilated_window(2048, 2)),
    Variant("document", lambda d: fx.stdlib.document(offsets=_integers(d, _documents()))),
    Variant(
        "document_causal", lambda d: fx.stdlib.document_causal(offsets=_integers(d, _documents()))
    ),
    Variant("draft_blocks", lambda d: fx.stdlib.draft_blocks(N // 2, 16), q_len=N // 2, kv_len=N),
    Variant("elastic_window", _elastic_window),
    Variant("flamingo", _flamingo),
    Variant("flash_window", lambda d: fx.stdlib.flash_window(N, N, 2048, 2048)),
    Variant("grid_2d", lambda d: fx.stdlib.grid_2d((SIDE, SIDE), (8, 8))),
    Variant("longformer", _longformer),
    Variant("neighborhood", lambda d: fx.stdlib.neighborhood((SIDE, SIDE), 13)),
    Variant("neighborhood_in_tiles", lambda d: _neighborhood_in_tiles(d, SIDE)),
    # FlexAttention's figure beside it, row-major, is 29 TFLOP/s (an H200, torch 2.11.0).
    Variant("neighborhood_96", lambda d: _neighborhood_in_tiles(d, 96), q_len=96 * 96, batch=2),
    Variant("nsa_compressed", lambda d: fx.stdlib.nsa_compressed(32), q_len=4 * N, kv_len=N // 8),
    Variant("power_attention", lambda d: fx.stdlib.power_attention()),
    Variant("prefix_lm", lambda d: fx.stdlib.prefix_lm(N // 4)),
    Variant(
        "radial_blocks",
        lambda d: fx.stdlib.radial_blocks(2 * N, 2 * N, 32, 0.2, "wan"),
        q_len=2 * N,
        heads=8,
    ),
    Variant("radial_token", lambda d: fx.stdlib.radial_token(16, FRAME)),
    Variant("shared_prefix", lambda d: fx.stdlib.shared_prefix([4096, *[2048] * 6], [0] * 7)),
    Variant("shifted_window", lambda d: fx.stdlib.shifted_window((SIDE, SIDE), 16)),
    Variant(
        "sliding_tile",
        lambda d: fx.stdlib.sliding_tile((30, 40, 40), (3, 3, 3)),
        q_len=48000,
        heads=8,
    ),
    Variant("sliding_window", lambda d: fx.stdlib.sliding_window(4096)),
    Variant("sparse_fixed", lambda d: fx.stdlib.sparse_fixed(128, 32)),
    Variant("strided", lambda d: fx.stdlib.strided(128)),
    Variant("strided_blocks", lambda d: fx.stdlib.strided_blocks(128, 4, 8)),
    Variant("strided_heads", lambda d: fx.stdlib.strided_heads(128, 8, 8, HEADS)),
    Variant("svg_hunyuan", lambda d: fx.stdlib.svg_hunyuan(15, FRAME, 512, 1.5)),
    Variant("svg_spatial", lambda d: fx.stdlib.svg_spatial(FRAME, FRAME, 2.0)),
    Variant("svg_temporal", lambda d: fx.stdlib.svg_temporal(FRAME, 15, FRAME, 2.0)),
    Variant("svg_wan", lambda d: fx.stdlib.svg_wan(FRAME, 2.0)),
    Variant("timesformer_spatial", lambda d: fx.stdlib.timesformer_spatial(8), q_len=N + 1),
    Variant("timesformer_temporal", lambda d: fx.stdlib.timesformer_temporal(8), q_len=N + 1),
    Variant("tree", _tree, q_len=64, kv_len=N + 64, batch=8),
    Variant("view_time", lambda d: fx.stdlib.view_time(8, 8, 256)),
    Variant("window_2d", lambda d: fx.stdlib.window_2d((SIDE, SIDE), 16)),
)

SCORES: tuple[Variant, ...] = (
    Variant("alibi", lambda d: fx.stdlib.alibi(HEADS)),
    Variant("alibi_bidirectional", lambda d: fx.stdlib.alibi_bidirectional(HEADS)),
    Variant(
        "dual_chunk_bias", lambda d: fx.stdlib.dual_chunk_bias(_learned(d, 3073, HEADS), 3072, 512)
    ),
    Variant(
        "graphormer_bias", lambda d: fx.stdlib.graphormer_bias(_learned(d, HEADS, 32), _paths(d))
    ),
    Variant(
        "ipa_points",
        lambda d: fx.stdlib.ipa_points(
            *(_learned(d, HEADS, N, 4, 3) for _ in "qk"), _learned(d, HEADS)
        ),
    ),
    Variant("learned_bias", lambda d: fx.stdlib.learned_bias(_learned(d, HEADS, 2 * N - 1), "hr")),
    Variant("lightning_decay", lambda d: fx.stdlib.lightning_decay(HEADS)),
    Variant("lowrank_bias", lambda d: fx.stdlib.lowrank_bias(*(_learned(d, N, 2) for _ in "qk"))),
    Variant(
        "lowrank_bias_16", lambda d: fx.stdlib.lowrank_bias(*(_learned(d, N, 16) for _ in "qk"))
    ),
    Variant("retention", lambda d: fx.stdlib.retention(HEADS)),
    Variant("sandwich", lambda d: fx.stdlib.sandwich(HEADS)),
    Variant("selective_temperature", lambda d: fx.stdlib.selective_temperature(_learned(d, HEADS))),
    Variant("softcap", lambda d: fx.stdlib.softcap(50.0)),
    Variant("spatial_distance", lambda d: fx.stdlib.spatial_distance(_learned(d, N, 3))),
    Variant(
        "swin_bias",
        lambda d: fx.stdlib.swin_bias(_learned(d, (2 * SIDE - 1) ** 2, HEADS), (SIDE, SIDE)),
    ),
    Variant("t5_bias", lambda d: fx.stdlib.t5_bias(_learned(d, 32, HEADS), bidirectional=False)),
)

VARIANTS = {v.name: v for v in MASKS + SCORES}

# One of each kind of plan and of mask, and the scores that have a goal.
QUICK = (
    *("attention_sink", "document_causal", "block_table", "neighborhood_in_tiles"),
    *("neighborhood_96", "radial_token", "sliding_window", "alibi", "lowrank_bias", "softcap"),
)
