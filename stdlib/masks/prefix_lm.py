"""Prefix language model: a prompt that is seen in both directions, then causal text.

    kv < prefix or kv <= q

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", https://arxiv.org/abs/1910.10683, section 3.2.1.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def prefix_lm(prefix: int) -> fx.Mod:
    """Every query sees the first `prefix` keys, and the keys up to its own position.

    Args:
        prefix: length of the prefix in keys; 0 is causal, the whole length is no mask.

    Raises:
        ArgumentError: the prefix is not an integer of at least 0.

    prefix_lm(3), queries down, keys across:

        # # # . . . .
        # # # . . . .
        # # # . . . .
        # # # # . . .
        # # # # # . .
        # # # # # # .
        # # # # # # #
    """
    prefix = integer_at_least(0, "prefix", prefix)

    @fx.mask_mod
    def prefix_lm(b: int, h: int, q: int, kv: int) -> bool:
        return kv < prefix or q >= kv

    return prefix_lm
