"""Sparse VideoGen's temporal heads, text first: the same places in all frames.

    q < prompt or kv < prompt or abs((q - prompt) % frame - (kv - prompt) % frame) < width
    width = frames_wide * tokens_per_frame // frames

Source: attention-gym's svg.py, after Xi et al. 2025, "Sparse VideoGen",
https://arxiv.org/abs/2502.01776. The authors' code transposes frames and places instead and runs
the spatial band: in that order (`TileOrder((frames, tokens), (frames, 1))`) tiles are dense.

Claim (the paper's, not measured here): up to 2.28 times as fast end to end on CogVideoX-v1.5, 2.33
times on HunyuanVideo.
"""

from __future__ import annotations

from math import floor

import flexdsl as fx

from ..arguments import integer_at_least, positive_number


def svg_temporal(
    prompt: int, frames: int, tokens_per_frame: int, frames_wide: float = 1.0
) -> fx.Mod:
    """Text sees all and is seen by all; a video token sees places near its own, at all times.

    Args:
        prompt: text tokens, before the video.
        frames: number of frames.
        tokens_per_frame: tokens of a frame.
        frames_wide: keys of a token, in frames; to each side the distance is less than
            frames_wide * tokens_per_frame // frames places.

    Raises:
        ArgumentError: a number is out of its range.

    svg_temporal(1, 3, 4, 1.5), queries down, keys across:

        # # # # # # # # # # # # #
        # # # . . # # . . # # . .
        # # # # . # # # . # # # .
        # . # # # . # # # . # # #
        # . . # # . . # # . . # #
        # # # . . # # . . # # . .
        # # # # . # # # . # # # .
        # . # # # . # # # . # # #
        # . . # # . . # # . . # #
        # # # . . # # . . # # . .
        # # # # . # # # . # # # .
        # . # # # . # # # . # # #
        # . . # # . . # # . . # #
    """
    prompt = integer_at_least(0, "prompt", prompt)
    frames = integer_at_least(1, "frames", frames)
    size = integer_at_least(1, "tokens_per_frame", tokens_per_frame)
    width = floor(positive_number("frames_wide", frames_wide) * size / frames)

    @fx.mask_mod
    def svg_temporal(b: int, h: int, q: int, kv: int) -> bool:
        near = fx.abs((q - prompt) % size - (kv - prompt) % size) < width
        return q < prompt or kv < prompt or near

    return svg_temporal
