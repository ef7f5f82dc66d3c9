"""Tile maps that independent code drew from the papers' definitions: F full, P partial, . empty.

`tile_maps.json` holds them; the masks here are the definitions again, as a user writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexdsl as fx
from support.definitions import block_diffusion

MAPS = json.loads(Path(__file__).with_name("tile_maps.json").read_text())


def document_causal(doc_lengths: list[int]) -> Any:
    doc = np.repeat(np.arange(len(doc_lengths)), doc_lengths)
    return lambda b, h, q, kv: doc[q] == doc[kv] and q >= kv


def natten(shape: list[int], kernel: list[int]) -> Any:
    def axis(x: Any, y: Any, length: int, size: int) -> Any:
        centre = fx.minimum(fx.maximum(x, size // 2), length - 1 - (size - 1) // 2)
        return (centre - y <= size // 2) & (y - centre <= (size - 1) // 2)

    def mask(b: Any, h: Any, q: Any, kv: Any) -> Any:
        allowed: Any = True
        for length, size in zip(reversed(shape), reversed(kernel), strict=True):
            allowed = allowed & axis(q % length, kv % length, length, size)
            q, kv = q // length, kv // length
        return allowed

    return mask


def sliding_tile(canvas: list[int], tile: list[int], kernel_tiles: list[int], text_len: int) -> Any:
    assert text_len == 0
    counts = [c // t for c, t in zip(canvas, tile, strict=True)]
    volume = tile[0] * tile[1] * tile[2]

    def mask(b: Any, h: Any, q: Any, kv: Any) -> Any:
        allowed: Any = True
        a, c = q // volume, kv // volume
        for n, size in zip(reversed(counts), reversed(kernel_tiles), strict=True):
            reach = size // 2
            centre = fx.minimum(fx.maximum(a % n, reach), n - 1 - reach)
            allowed = allowed & (abs(centre - c % n) <= reach)
            a, c = a // n, c // n
        return allowed

    return mask


def s2(num_heads: int, h: int, block_size: int, local_blocks: int, vert_stride: int) -> Any:
    step, head = max(1, vert_stride // num_heads), h

    def mask(b: Any, h: Any, q: Any, kv: Any) -> Any:
        near = q // block_size - kv // block_size < local_blocks
        return q >= kv and (near or (kv // block_size + head * step) % vert_stride == 0)

    return mask


def power(block: int, window_blocks: int, sink_tokens: int) -> Any:
    def mask(b: Any, h: Any, q: Any, kv: Any) -> Any:
        away = q // block - kv // block
        return q >= kv and (away < window_blocks or (away & (away - 1)) == 0 or kv < sink_tokens)

    return mask


def swin(H: int, W: int, window: int, shift: int) -> Any:
    def region(x: Any, length: int) -> Any:
        return fx.where(x < length - window, 0, fx.where(x < length - shift, 1, 2))

    def same(x: Any, y: Any, length: int) -> Any:
        x, y = (x + length - shift) % length, (y + length - shift) % length
        return (x // window == y // window) & (region(x, length) == region(y, length))

    return lambda b, h, q, kv: same(q // W, kv // W, H) & same(q % W, kv % W, W)


def maxvit(H: int, W: int, grid: int) -> Any:
    rows, columns = H // grid, W // grid
    return lambda b, h, q, kv: (
        q // W % rows == kv // W % rows and q % W % columns == kv % W % columns
    )


def radial(frames: int, tokens_per_frame: int, first_frame_sink: bool) -> Any:
    size = tokens_per_frame
    # 2 ** floor(log2(distance)), 1 for a distance of 0.
    power_of = np.array([1 << max(0, d.bit_length() - 1) for d in range(frames)])

    def mask(b: Any, h: Any, q: Any, kv: Any) -> Any:
        distance = abs(q // size - kv // size)
        band = power_of[distance]
        away = abs(q % size - kv % size)
        near = (band <= size) & ((away + 1) * band <= size)
        far = (distance % fx.maximum(1, (band + size - 1) // size) == 0) & (away == 0)
        return near | far | (first_frame_sink & (kv < size))

    return mask


MASKS: dict[str, Callable[..., Any]] = {
    "causal": lambda n: lambda b, h, q, kv: q >= kv,
    "causal_bottom_right": lambda sq, sk: lambda b, h, q, kv: kv <= q + sk - sq,
    "sliding_window_causal": lambda W: lambda b, h, q, kv: q >= kv and q - kv < W,
    "attention_sink_window": lambda sinks, window: (
        lambda b, h, q, kv: q >= kv and (kv < sinks or q - kv < window)
    ),
    "prefix_lm": lambda prefix: lambda b, h, q, kv: kv < prefix or q >= kv,
    "document_causal": document_causal,
    "longformer_band_dilated": lambda w, dilation: (
        lambda b, h, q, kv: (q - kv) % dilation == 0 and abs(q - kv) <= w * dilation
    ),
    "sparse_transformer_strided": lambda stride: (
        lambda b, h, q, kv: q >= kv and (q - kv) % stride == 0
    ),
    "natten_2d": natten,
    "natten_3d": natten,
    "sliding_tile": sliding_tile,
    "s2_tokens_causal": s2,
    "power_attention": power,
    "swin_shifted_window": swin,
    "maxvit_grid": maxvit,
    "radial_paper_token": radial,
    "view_time_fused": lambda V, T, HW: (
        lambda b, h, q, kv: q // (T * HW) == kv // (T * HW) or q // HW % T == kv // HW % T
    ),
    "block_diffusion": block_diffusion,
}


@pytest.mark.parametrize("number", range(len(MAPS)), ids=lambda n: f"{n}-{MAPS[n]['name']}")
def test_tile_map(number: int) -> None:
    drawn = MAPS[number]
    mask = MASKS[drawn["name"]](**drawn["params"])
    plan = fx.plan(fx.mask_mod(mask), drawn["n_q"], drawn["n_kv"], tile=(drawn["BM"], drawn["BN"]))
    for found in (plan.to_dense()[0, 0], plan.transposed().to_dense()[0, 0]):
        assert ["".join(".PF"[state] for state in row) for row in found] == drawn["map"]


def test_every_drawn_mask_is_here() -> None:
    assert {drawn["name"] for drawn in MAPS} == set(MASKS)
