"""Radial attention as its authors run it: blocks of 128 tokens, chosen once for a video.

    radial_block_table(...)[q // block, kv // block]

Source: Li et al. 2025, "Radial Attention: O(n log n) Sparse Attention with Energy Decay for Long
Video Generation", https://arxiv.org/abs/2506.19852, and its code, which differs from the paper's
formula (`radial_token`): bands are rounded to blocks, and Wan's first frame is a sink.

Claim (the paper's, not measured here): 88% of the blocks fall away at 509 frames of HunyuanVideo;
1.9 times as fast at the default length.
"""

from __future__ import annotations

import flexdsl as fx

from ..tables.radial_block_table import radial_block_table
from .block_table import block_table


def radial_blocks(
    length: int, video: int, frames: int, decay: float, model: str, block: int = 128
) -> fx.Mod:
    """Tokens are frame-major, row-major inside a frame; text comes after the video.

    Args:
        length: all tokens, `video` of them of the video.
        frames: frames of the video.
        decay: factor of the bands' widths; 0.2 for Wan 2.1, 0.95 for HunyuanVideo.
        model: "wan" or "hunyuan".
        block: tokens of a block.

    Raises:
        ArgumentError: as in `radial_block_table`.

    radial_blocks(12, 12, 6, 0.01, "hunyuan", block=1), queries down, keys across:

        # # . . . . . . . . . .
        # # . . . . . . . . . .
        . . # # . . . . . . . .
        . . # # . . . . . . . .
        . . . . # # . . . . . .
        . . . . # # . . . . . .
        . . . . . . # # . . . .
        . . . . . . # # . . . .
        . . . . . . . . # # . .
        . . . . . . . . # # . .
        . . . . . . . . . . # #
        . . . . . . . . . . # #
    """
    mask = block_table(radial_block_table(length, video, frames, decay, model, block), block)

    @fx.mask_mod
    def radial_blocks(b: int, h: int, q: int, kv: int) -> bool:
        return mask(b, h, q, kv)

    return radial_blocks
