"""Sliding window: each query sees itself and the keys just before.

    q - keys_including_self < kv <= q

Source: Child et al. 2019, https://arxiv.org/abs/1904.10509 (local attention); Beltagy et al. 2020,
https://arxiv.org/abs/2004.05150. The width counts the query's own key, as in Gemma and gpt-oss;
FlashAttention's `window_size=(w, 0)` is `sliding_window(w + 1)`.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def sliding_window(keys_including_self: int) -> fx.Mod:
    """Each query sees at most `keys_including_self` keys, the last of them its own.

    Args:
        keys_including_self: width of the window in keys, from 1.

    Raises:
        ArgumentError: the width is not an integer of at least 1.

    sliding_window(3), queries down, keys across:

        # . . . . . . .
        # # . . . . . .
        # # # . . . . .
        . # # # . . . .
        . . # # # . . .
        . . . # # # . .
        . . . . # # # .
        . . . . . # # #
    """
    keys = integer_at_least(1, "keys_including_self", keys_including_self)

    @fx.mask_mod
    def sliding_window(b: int, h: int, q: int, kv: int) -> bool:
        return q >= kv and q - kv < keys

    return sliding_window
