"""Causal attention that lines up the last query with the last key.

    kv <= q + kv_len - q_len

Source: FlashAttention since 2.1, https://github.com/Dao-AILab/flash-attention. With equal lengths
it is `causal`.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def causal_bottom_right(q_len: int, kv_len: int) -> fx.Mod:
    """The last query sees every key, the one before all but the last, and so on.

    With more queries than keys the first queries see no key: their output is 0. For a decoder with
    a cache, `causal()` with `q_offset=kv_len - q_len` gives the same.

    Args:
        q_len, kv_len: numbers of queries and keys.

    Raises:
        ArgumentError: a length is not an integer of at least 1.

    causal_bottom_right(3, 7), queries down, keys across:

        # # # # # . .
        # # # # # # .
        # # # # # # #
    """
    lead = integer_at_least(1, "kv_len", kv_len) - integer_at_least(1, "q_len", q_len)

    @fx.mask_mod
    def causal_bottom_right(b: int, h: int, q: int, kv: int) -> bool:
        return kv <= q + lead

    return causal_bottom_right
