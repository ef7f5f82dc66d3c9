"""BigBird: a window of three blocks, the first and the last block, and random blocks.

    block of q or of kv is the first or the last, or they are neighbours, or kv's is in random[q's]

Source: Zaheer et al. 2020, "Big Bird: Transformers for Longer Sequences",
https://arxiv.org/abs/2007.14062. Its code draws the random blocks by layer and counts a block that
is drawn twice double; here the table is given and a block counts once.

Claim (the paper's, not measured here): sequences of up to 8 times the length on the same hardware.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, integer_at_least, refuse


def bigbird(random: Any, block: int = 64) -> fx.Mod:
    """Blocks of `block` tokens; the number of blocks is the length of the table.

    Args:
        random: int array or tensor [blocks, r] or [heads, blocks, r]: the random key blocks of each
            query block; a block that sees none has its own number.
        block: tokens of a block.

    Raises:
        ArgumentError: the table is no such array, has fewer than 3 blocks, or block is less than 1.

    bigbird([[0], [5], [6], [1], [6], [2], [3], [7]], 1), queries down, keys across:

        # # # # # # # #
        # # # . . # . #
        # # # # . . # #
        # # # # # . . #
        # . . # # # # #
        # . # . # # # #
        # . . # . # # #
        # # # # # # # #
    """
    drawn = array_of("random", random, (2, 3), "int")
    block = integer_at_least(1, "block", block)
    count = int(drawn.shape[-1])
    last = int(drawn.shape[-2]) - 1
    if last < 2:
        raise refuse(f"random has {last + 1} blocks, but BigBird has at least 3")
    by_head = len(drawn.shape) == 3

    @fx.mask_mod
    def bigbird(b: int, h: int, q: int, kv: int) -> bool:
        i, j = q // block, kv // block
        seen = fx.abs(i - j) <= 1 or i == 0 or i == last or j == 0 or j == last
        for n in range(count):
            seen = seen or (drawn[h, i, n] if by_head else drawn[i, n]) == j
        return seen

    return bigbird
