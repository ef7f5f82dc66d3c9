"""TimeSformer's attention over space: a patch sees its own frame and the class token.

    q == 0 or kv == 0 or (q - 1) % frames == (kv - 1) % frames

Source: Bertasius et al. 2021, "Is Space-Time Attention All You Need for Video Understanding?",
https://arxiv.org/abs/2102.05095. Tokens are the class token, then places with time fastest:
1 + place * frames + frame. The class token's own row is one softmax over everything here; the paper
averages one softmax for each frame, which no mask says.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def timesformer_spatial(frames: int) -> fx.Mod:
    """Each patch sees the patches of its own frame, and the class token.

    Args:
        frames: number of frames.

    Raises:
        ArgumentError: frames is not an integer of at least 1.

    timesformer_spatial(3), queries down, keys across:

        # # # # # # # # # # # # #
        # # . . # . . # . . # . .
        # . # . . # . . # . . # .
        # . . # . . # . . # . . #
        # # . . # . . # . . # . .
        # . # . . # . . # . . # .
        # . . # . . # . . # . . #
        # # . . # . . # . . # . .
        # . # . . # . . # . . # .
        # . . # . . # . . # . . #
        # # . . # . . # . . # . .
        # . # . . # . . # . . # .
        # . . # . . # . . # . . #
    """
    frames = integer_at_least(1, "frames", frames)

    @fx.mask_mod
    def timesformer_spatial(b: int, h: int, q: int, kv: int) -> bool:
        return q == 0 or kv == 0 or (q - kv) % frames == 0

    return timesformer_spatial
