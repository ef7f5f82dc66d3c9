"""Training of a parallel draft model: independent causal blocks that all see one prefix.

    kv < prefix  or  (kv - prefix) // block == q // block and kv - prefix <= q

Source: attention-gym's jetspec.py, https://github.com/meta-pytorch/attention-gym.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def draft_blocks(prefix: int, block: int) -> fx.Mod:
    """Queries are blocks of drafted tokens; keys are the prefix and then the same blocks.

    Args:
        prefix: keys that every query sees.
        block: tokens of a block.

    Raises:
        ArgumentError: prefix is less than 0, block less than 1, or not an integer.

    draft_blocks(3, 3), queries down, keys across:

        # # # # . . . . .
        # # # # # . . . .
        # # # # # # . . .
        # # # . . . # . .
        # # # . . . # # .
        # # # . . . # # #
    """
    prefix = integer_at_least(0, "prefix", prefix)
    block = integer_at_least(1, "block", block)

    @fx.mask_mod
    def draft_blocks(b: int, h: int, q: int, kv: int) -> bool:
        draft = kv - prefix
        return draft < 0 or (draft <= q and draft // block == q // block)

    return draft_blocks
