"""Sets of the elements of captured tensors on their device, for the kernel that makes plans there.

The layout is that of `codegen/members.py`. Nothing waits for the device, and a CUDA graph may
capture it: replayed, it reads the elements of then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexdsl.codegen.extremes import ELEMENTS, LEVELS
from flexdsl.codegen.members import BITS, FACTOR
from flexdsl.runtime.extremes import whole_blocks


def members(tensor: Tensor) -> Tensor:
    """Sets of the rows of integers that `extremes.elements` gave, over runs of blocks of ELEMENTS.

    Returns:
        int64, one dimension: for each level, each row, and each block, the set of the run of
        2**level blocks that begins there (all bits on the last level, which stands for any run).
    """
    rows = tensor.reshape(-1, tensor.shape[-1] if tensor.dim() else 1)
    count, blocks = len(rows), -(-rows.shape[1] // ELEMENTS)
    found = torch.full((LEVELS + 1, count, blocks), -1, dtype=torch.int64, device=tensor.device)
    bits = torch.ones((), dtype=torch.int64, device=tensor.device) << _hash(rows)
    bits = whole_blocks(bits, blocks)
    width = ELEMENTS
    while width > 1:
        width //= 2
        bits = bits[..., :width] | bits[..., width:]
    found[0] = bits[..., 0]
    for level in range(1, LEVELS):
        shorter, step = found[level - 1], 1 << (level - 1)
        found[level] = shorter
        if step < blocks:
            torch.bitwise_or(shorter[:, :-step], shorter[:, step:], out=found[level, :, :-step])
    return found.view(-1)


def _hash(numbers: Tensor) -> Tensor:
    """A number below BITS for each element."""
    return ((numbers.long() & 0xFFFFFFFF) * FACTOR >> 26) % BITS
