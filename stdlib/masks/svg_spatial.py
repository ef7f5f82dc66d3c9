"""Sparse VideoGen's spatial heads, text first: a band of whole frames around the query.

    q < prompt or kv < prompt [or kv in the first frame] or abs(q - kv) < width
    width = floor(frames_wide * tokens_per_frame / round_to) * round_to

Source: attention-gym's svg.py, after Xi et al. 2025, "Sparse VideoGen",
https://arxiv.org/abs/2502.01776; the authors' own layouts are `svg_hunyuan` and `svg_wan`.
"""

from __future__ import annotations

from math import floor

import flexdsl as fx

from ..arguments import integer_at_least, positive_number


def svg_spatial(
    prompt: int,
    tokens_per_frame: int,
    frames_wide: float,
    *,
    round_to: int = 128,
    first_frame: bool = False,
) -> fx.Mod:
    """Text sees all and is seen by all; video tokens see a band.

    Args:
        prompt: text tokens, before the video.
        tokens_per_frame: tokens of a frame.
        frames_wide: half width of the band in frames, exclusive.
        round_to: the half width is a multiple of this many tokens, rounded down.
        first_frame: all see the first frame.

    Raises:
        ArgumentError: a number is out of its range.

    svg_spatial(2, 5, 1, round_to=4), queries down, keys across:

        # # # # # # # # # # # #
        # # # # # # # # # # # #
        # # # # # # . . . . . .
        # # # # # # # . . . . .
        # # # # # # # # . . . .
        # # # # # # # # # . . .
        # # . # # # # # # # . .
        # # . . # # # # # # # .
        # # . . . # # # # # # #
        # # . . . . # # # # # #
        # # . . . . . # # # # #
        # # . . . . . . # # # #
    """
    prompt = integer_at_least(0, "prompt", prompt)
    frame = integer_at_least(1, "tokens_per_frame", tokens_per_frame)
    round_to = integer_at_least(1, "round_to", round_to)
    width = floor(positive_number("frames_wide", frames_wide) * frame / round_to) * round_to
    seen_by_all = prompt + (frame if first_frame else 0)

    @fx.mask_mod
    def svg_spatial(b: int, h: int, q: int, kv: int) -> bool:
        return q < prompt or kv < seen_by_all or fx.abs(q - kv) < width

    return svg_spatial
