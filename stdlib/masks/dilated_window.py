"""Dilated sliding window: every other key, or every third, to both sides.

    abs(q - kv) <= distance and (q - kv) % dilation == 0

Source: attention-gym's dilated_sliding_window.py, https://github.com/meta-pytorch/attention-gym,
after Beltagy et al. 2020. The width counts tokens, not keys: `longformer(w, dilation=d)` is
`dilated_window(w * d, d)`. In `TileOrder(tokens, 128, dilation=d)` most of its tiles are full.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def dilated_window(distance: int, dilation: int) -> fx.Mod:
    """Each query sees the keys at most `distance` away whose distance `dilation` divides.

    Args:
        distance: largest distance of a key, inclusive, in tokens.
        dilation: positions from one key to the next.

    Raises:
        ArgumentError: distance is less than 0, dilation less than 1, or not an integer.

    dilated_window(4, 2), queries down, keys across:

        # . # . # . . . .
        . # . # . # . . .
        # . # . # . # . .
        . # . # . # . # .
        # . # . # . # . #
        . # . # . # . # .
        . . # . # . # . #
        . . . # . # . # .
        . . . . # . # . #
    """
    distance = integer_at_least(0, "distance", distance)
    dilation = integer_at_least(1, "dilation", dilation)

    @fx.mask_mod
    def dilated_window(b: int, h: int, q: int, kv: int) -> bool:
        return fx.abs(q - kv) <= distance and (q - kv) % dilation == 0

    return dilated_window
