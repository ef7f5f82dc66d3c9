"""S2-Attention to both sides: local blocks, and every stride-th block beyond them.

    (max(i - j - before + 1, 0) + max(j - i - after + 1, 0)) % stride == 0,  i, j = blocks of q, kv

Source: Lin et al. 2024, "S2-Attention", https://arxiv.org/abs/2407.17678, the relative form of
https://github.com/linxihui/dkernel. All heads are the same; see `strided_heads` for the causal one.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import integer_at_least, integers_at_least


def strided_blocks(block: int, local_blocks: Any, stride: int) -> fx.Mod:
    """Each block sees its neighbourhood, and every stride-th block on from there.

    Args:
        block: tokens of a block.
        local_blocks: blocks seen before and after, the own one counted in each; one number for both
            or a pair.
        stride: blocks from one seen far block to the next.

    Raises:
        ArgumentError: a number is not an integer of at least 1.

    strided_blocks(1, (2, 2), 3), queries down, keys across:

        # # . . # . . # .
        # # # . . # . . #
        . # # # . . # . .
        . . # # # . . # .
        # . . # # # . . #
        . # . . # # # . .
        . . # . . # # # .
        # . . # . . # # #
        . # . . # . . # #
    """
    block = integer_at_least(1, "block", block)
    before, after = integers_at_least(1, "local_blocks", local_blocks, 2)
    stride = integer_at_least(1, "stride", stride)

    @fx.mask_mod
    def strided_blocks(b: int, h: int, q: int, kv: int) -> bool:
        distance = q // block - kv // block
        beyond = fx.maximum(distance - before + 1, 0) + fx.maximum(1 - after - distance, 0)
        return beyond % stride == 0

    return strided_blocks
