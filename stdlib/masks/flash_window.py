"""FlashAttention's local window: keys to the left and to the right of the query's position.

    q + kv_len - q_len - left <= kv <= q + kv_len - q_len + right

Source: https://github.com/Dao-AILab/flash-attention, `window_size=(left, right)`, which lines up
the last query with the last key. Both widths leave the query's own key out, so that
`flash_window(n, n, w - 1, 0)` is `sliding_window(w)`.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def flash_window(q_len: int, kv_len: int, left: int, right: int) -> fx.Mod:
    """Each query sees `left` keys before its position, its own, and `right` keys after it.

    Rows that lie outside of the keys see none: their output is 0.

    Args:
        q_len, kv_len: numbers of queries and keys.
        left, right: keys to each side without the own one; -1 for all of them.

    Raises:
        ArgumentError: a length is less than 1, a width less than -1, or not an integer.

    flash_window(6, 8, 2, 1), queries down, keys across:

        # # # # . . . .
        . # # # # . . .
        . . # # # # . .
        . . . # # # # .
        . . . . # # # #
        . . . . . # # #
    """
    lead = integer_at_least(1, "kv_len", kv_len) - integer_at_least(1, "q_len", q_len)
    before = integer_at_least(-1, "left", left)
    after = integer_at_least(-1, "right", right)
    if before < 0:
        before = kv_len + q_len
    if after < 0:
        after = kv_len + q_len

    @fx.mask_mod
    def flash_window(b: int, h: int, q: int, kv: int) -> bool:
        return q + lead - kv <= before and kv - q - lead <= after

    return flash_window
