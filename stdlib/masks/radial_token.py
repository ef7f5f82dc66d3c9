"""Radial attention, the paper's form: the further a frame, the narrower the band.

    (abs(k - m) + 1) * p <= s  or  k == m and d % ceil(p / s) == 0  [or kv in the first frame]
    with d = distance of the frames, p = 2 ** floor(log2(max(d, 1))), k, m = places in the frame

Source: Li et al. 2025, "Radial Attention: O(n log n) Sparse Attention with Energy Decay for Long
Video Generation", https://arxiv.org/abs/2506.19852. The authors' code runs the coarser
`radial_blocks`.

Claim (the paper's, not measured here): 1.9 times as fast at the default length, 3.7 times at four
times the length.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least
from ..orders.grid import grid


def radial_token(frames: int, tokens_per_frame: int, *, first_frame: bool = False) -> fx.Mod:
    """Frames are near in full; the width of the band halves whenever the distance doubles.

    Args:
        frames: number of frames; tokens are frame-major, row-major inside a frame.
        tokens_per_frame: s, tokens of a frame.
        first_frame: all queries see the first frame.

    Raises:
        ArgumentError: a number is not an integer of at least 1.

    radial_token(4, 4), queries down, keys across:

        # # # # # # # # # # . . # # . .
        # # # # # # # # # # # . # # # .
        # # # # # # # # . # # # . # # #
        # # # # # # # # . . # # . . # #
        # # # # # # # # # # # # # # . .
        # # # # # # # # # # # # # # # .
        # # # # # # # # # # # # . # # #
        # # # # # # # # # # # # . . # #
        # # . . # # # # # # # # # # # #
        # # # . # # # # # # # # # # # #
        . # # # # # # # # # # # # # # #
        . . # # # # # # # # # # # # # #
        # # . . # # . . # # # # # # # #
        # # # . # # # . # # # # # # # #
        . # # # . # # # # # # # # # # #
        . . # # . . # # # # # # # # # #
    """
    import numpy as np

    frames = integer_at_least(1, "frames", frames)
    size = integer_at_least(1, "tokens_per_frame", tokens_per_frame)
    place = grid((frames, size))
    power = np.array([1 << max(d, 1).bit_length() - 1 for d in range(frames)], np.int32)
    on_line = np.arange(frames) % -(-power // size) == 0
    first_frame = bool(first_frame)

    @fx.mask_mod
    def radial_token(b: int, h: int, q: int, kv: int) -> bool:
        (q_frame, k), (kv_frame, m) = place(q), place(kv)
        distance = fx.abs(q_frame - kv_frame)
        band = (fx.abs(k - m) + 1) * power[distance] <= size
        seen = band or (k == m and on_line[distance])
        return seen or kv_frame == 0 if first_frame else seen

    return radial_token
