"""Sparse VideoGen's band for Wan 2.1: near frames, and the first frame for all.

    abs(q - kv) <= width or kv in the first frame
    width = ceil(frames_wide * tokens_per_frame / round_to) * round_to

Source: Xi et al. 2025, "Sparse VideoGen", https://arxiv.org/abs/2502.01776, and
https://github.com/svg-project/Sparse-VideoGen. Inclusive and rounded up, where HunyuanVideo's is
exclusive and rounded down. Temporal heads first transpose (frame, place) to (place, frame).

Claim (the paper's, not measured here): up to 2.28 times as fast end to end on CogVideoX-v1.5, 2.33
times on HunyuanVideo.
"""

from __future__ import annotations

from math import ceil

import flexdsl as fx

from ..arguments import integer_at_least, positive_number


def svg_wan(tokens_per_frame: int, frames_wide: float, round_to: int = 128) -> fx.Mod:
    """Each token sees a band around it, and the first frame.

    Args:
        tokens_per_frame: tokens of a frame.
        frames_wide: half width of the band in frames, inclusive.
        round_to: the half width is a multiple of this many tokens, rounded up.

    Raises:
        ArgumentError: a number is out of its range.

    svg_wan(3, 1, round_to=2), queries down, keys across:

        # # # # # . . . . . . .
        # # # # # # . . . . . .
        # # # # # # # . . . . .
        # # # # # # # # . . . .
        # # # # # # # # # . . .
        # # # # # # # # # # . .
        # # # # # # # # # # # .
        # # # # # # # # # # # #
        # # # . # # # # # # # #
        # # # . . # # # # # # #
        # # # . . . # # # # # #
        # # # . . . . # # # # #
    """
    frame = integer_at_least(1, "tokens_per_frame", tokens_per_frame)
    step = integer_at_least(1, "round_to", round_to)
    width = ceil(positive_number("frames_wide", frames_wide) * frame / step) * step

    @fx.mask_mod
    def svg_wan(b: int, h: int, q: int, kv: int) -> bool:
        return kv < frame or fx.abs(q - kv) <= width

    return svg_wan
