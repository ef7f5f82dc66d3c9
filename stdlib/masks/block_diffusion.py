"""Block diffusion: noised blocks see their clean past, in one pass over [noised | clean].

    same block and same half
    or noised query, clean key, of an earlier block
    or clean query, clean key, of its own block or an earlier one

Source: Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive and Diffusion
Language Models", https://arxiv.org/abs/2503.09573; as in attention-gym's block_diffusion.py.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least


def block_diffusion(length: int, block: int) -> fx.Mod:
    """The training mask on 2 * length tokens: first the noised sequence, then the clean one.

    Args:
        length: tokens of the sequence itself.
        block: tokens of a block, which is denoised as a whole.

    Raises:
        ArgumentError: an argument is not an integer of at least 1.

    block_diffusion(6, 2), queries down, keys across:

        # # . . . . . . . . . .
        # # . . . . . . . . . .
        . . # # . . # # . . . .
        . . # # . . # # . . . .
        . . . . # # # # # # . .
        . . . . # # # # # # . .
        . . . . . . # # . . . .
        . . . . . . # # . . . .
        . . . . . . # # # # . .
        . . . . . . # # # # . .
        . . . . . . # # # # # #
        . . . . . . # # # # # #
    """
    length = integer_at_least(1, "length", length)
    block = integer_at_least(1, "block", block)

    @fx.mask_mod
    def block_diffusion(b: int, h: int, q: int, kv: int) -> bool:
        if kv < length:
            return q < length and q // block == kv // block
        clean = (kv - length) // block
        if q < length:
            return q // block > clean
        return (q - length) // block >= clean

    return block_diffusion
