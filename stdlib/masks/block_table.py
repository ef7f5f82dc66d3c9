"""A table of blocks: whatever was found to matter, by block of queries and block of keys.

    table[q // block, kv // block]

Source: the form that selected attention comes down to, for example Zaheer et al. 2020,
https://arxiv.org/abs/2007.14062. Combine it with `causal()` for token causality.

A Hopper GPU's kernels skip blocks of 64 and of multiples of it whole; of smaller or odd ones they
compute the tiles that these are in.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, integers_at_least


def block_table(table: Any, block: Any = 128) -> fx.Mod:
    """A query sees the keys of the blocks that the table allows its block.

    Args:
        table: bool array or tensor [q blocks, kv blocks], or with [heads] or [batch, heads] before.
        block: tokens of a block, or a pair: of queries, of keys.

    Raises:
        ArgumentError: the table is no such array, or a block is less than 1.

    block_table([[True, False, True], [False, True, True]], (2, 3)), queries down, keys across:

        # # # . . . # # #
        # # # . . . # # #
        . . . # # # # # #
        . . . # # # # # #
    """
    allowed = array_of("table", table, (2, 3, 4), "bool")
    rank = len(allowed.shape)
    rows, columns = integers_at_least(1, "block", block, 2)

    @fx.mask_mod
    def block_table(b: int, h: int, q: int, kv: int) -> bool:
        return allowed[(*(b, h)[4 - rank :], q // rows, kv // columns)]

    return block_table
