"""Native sparse attention, the compressed branch: a block of keys is seen once it is complete.

    kv < (q + 1) // block,   kv the number of a block

Source: Yuan et al. 2025, "Native Sparse Attention", https://arxiv.org/abs/2502.11089, as in
https://github.com/fla-org/native-sparse-attention (blocks do not overlap). The first block - 1
queries see nothing: the branch's output is 0 there.

Claim (the paper's, not measured here): 9 times as fast forward, 6 times backward, at 64k tokens.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def nsa_compressed(block: int) -> fx.Mod:
    """Queries are tokens, keys are compressed blocks, one of `block` tokens each.

    Args:
        block: tokens of a block.

    Raises:
        ArgumentError: block is not an integer of at least 1.

    nsa_compressed(4), queries down, keys across:

        . . .
        . . .
        . . .
        # . .
        # . .
        # . .
        # . .
        # # .
        # # .
        # # .
        # # .
        # # #
    """
    block = integer_at_least(1, "block", block)

    @fx.mask_mod
    def nsa_compressed(b: int, h: int, q: int, kv: int) -> bool:
        return kv < (q + 1) // block

    return nsa_compressed
