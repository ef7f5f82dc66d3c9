"""Sets of the elements of captured tensors on their device, for the kernel that makes plans there.

The layout is that of `codegen/members.py`. Nothing waits for the device, and a CUDA graph may
capture it: replayed, it reads the elements of then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexdsl.codegen.extremes import ELEMENTS, LEVELS
from flexdsl.codegen.members import BITS, FACTORS, WORDS
from flexdsl.runtime.extremes import whole_blocks

_SHIFT = 32 - BITS.bit_length() + 1  # leaves the top of a product, of as many bits as BITS has
# torch has no kernels for unsigned numbers: the same 32 bits with a sign.
_SIGNED = [factor - 2**32 for factor in FACTORS]


def members(tensor: Tensor) -> Tensor:
    """Sets of the rows of integers that `extremes.elements` gave, over runs of blocks of ELEMENTS.

    Returns:
        int64, one dimension: for each level, each row, each block, and each word, the set of the
        run of 2**level blocks that begins there (all bits on the last level, which stands for any
        run).
    """
    rows = tensor.reshape(-1, tensor.shape[-1] if tensor.dim() else 1)
    count, blocks = len(rows), -(-rows.shape[1] // ELEMENTS)
    found = rows.new_full((LEVELS + 1, count, blocks, WORDS), -1, dtype=torch.int64)
    bits = _bits(whole_blocks(rows, blocks))
    width = ELEMENTS
    while width > 1:
        width //= 2
        bits = bits[:, :, :width] | bits[:, :, width:]
    found[0] = bits[:, :, 0]
    for level in range(1, LEVELS):
        shorter, step = found[level - 1], 1 << (level - 1)
        found[level] = shorter
        if step < blocks:
            torch.bitwise_or(shorter[:, :-step], shorter[:, step:], out=found[level, :, :-step])
    return found.view(-1)


def _bits(numbers: Tensor) -> Tensor:
    """The words of the set of each element alone, in a last dimension. Products wrap around."""
    words = [numbers.int() * factor for factor in _SIGNED]
    hashes = torch.stack(words, -1) >> _SHIFT & (BITS - 1)
    # With a dimension, for without one it would take the type of the hashes.
    return hashes.new_ones(1, dtype=torch.int64) << hashes
