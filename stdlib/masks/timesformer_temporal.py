"""TimeSformer's attention over time: a patch sees the same place in all frames.

    q > 0 and kv > 0 and (q - 1) // frames == (kv - 1) // frames

Source: Bertasius et al. 2021, "Is Space-Time Attention All You Need for Video Understanding?",
https://arxiv.org/abs/2102.05095. Tokens are the class token, then places with time fastest:
1 + place * frames + frame. The class token takes no part: its output is 0, pass it by.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def timesformer_temporal(frames: int) -> fx.Mod:
    """Each patch sees its own place in every frame.

    Args:
        frames: number of frames.

    Raises:
        ArgumentError: frames is not an integer of at least 1.

    timesformer_temporal(3), queries down, keys across:

        . . . . . . . . . . . . .
        . # # # . . . . . . . . .
        . # # # . . . . . . . . .
        . # # # . . . . . . . . .
        . . . . # # # . . . . . .
        . . . . # # # . . . . . .
        . . . . # # # . . . . . .
        . . . . . . . # # # . . .
        . . . . . . . # # # . . .
        . . . . . . . # # # . . .
        . . . . . . . . . . # # #
        . . . . . . . . . . # # #
        . . . . . . . . . . # # #
    """
    frames = integer_at_least(1, "frames", frames)

    @fx.mask_mod
    def timesformer_temporal(b: int, h: int, q: int, kv: int) -> bool:
        return q > 0 and kv > 0 and (q - 1) // frames == (kv - 1) // frames

    return timesformer_temporal
