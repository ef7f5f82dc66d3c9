"""Strided attention of the Sparse Transformer: every stride-th earlier key.

    kv <= q and (q - kv) % stride == 0

Source: Child et al. 2019, "Generating Long Sequences with Sparse Transformers",
https://arxiv.org/abs/1904.10509. The other half of its heads is `sliding_window(stride)`. Its code
adds -1e9 where this mask excludes. In `TileOrder(tokens, tile, dilation=stride)` keys of equal
remainders stand together, and it is causal among them.

Claim (the paper's): cost O(n sqrt(n)) at the quality of dense attention.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def strided(stride: int) -> fx.Mod:
    """Each query sees itself, and earlier keys at multiples of `stride` before it.

    Args:
        stride: positions from one key to the next.

    Raises:
        ArgumentError: stride is not an integer of at least 1.

    strided(3), queries down, keys across:

        # . . . . . . . . .
        . # . . . . . . . .
        . . # . . . . . . .
        # . . # . . . . . .
        . # . . # . . . . .
        . . # . . # . . . .
        # . . # . . # . . .
        . # . . # . . # . .
        . . # . . # . . # .
        # . . # . . # . . #
    """
    stride = integer_at_least(1, "stride", stride)

    @fx.mask_mod
    def strided(b: int, h: int, q: int, kv: int) -> bool:
        return q >= kv and (q - kv) % stride == 0

    return strided
