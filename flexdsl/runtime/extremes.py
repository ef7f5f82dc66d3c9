"""Summaries of captured tensors on their device, for the kernel that makes plans there.

The layout is that of `codegen/extremes.py`. Nothing waits for the device, and a CUDA graph may
capture it: replayed, it reads the elements of then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexdsl.codegen.extremes import ELEMENTS, LEVELS


def elements(tensor: Tensor) -> Tensor:
    """A captured tensor as `plan_states` reads it: contiguous, of a signed integer or float32."""
    tensor = not_empty(tensor.detach()).contiguous()
    if tensor.dtype is torch.bool:
        return tensor.view(torch.int8)
    if tensor.dtype is torch.uint8:
        return tensor.short()  # whose complements are negative
    return tensor.float() if tensor.is_floating_point() else tensor


def not_empty(tensor: Tensor) -> Tensor:
    """One without elements is read where it does not count: it gets one, for its address."""
    return tensor if tensor.numel() else tensor.new_zeros([1] * tensor.dim())


def extremes(tensor: Tensor) -> Tensor:
    """Extremes of the rows of what `elements` gave, over runs of blocks of ELEMENTS.

    Returns:
        One dimension: for each level, each side, each row, and each block, the least number of the
        run of 2**level blocks (of the row, on the last level) that begins there; then the least of
        the whole tensor on either side. Sides are the numbers and their complements.
    """
    rows = tensor.reshape(-1, tensor.shape[-1] if tensor.dim() else 1)
    count, blocks = len(rows), -(-rows.shape[1] // ELEMENTS)
    by_block = whole_blocks(rows, blocks)
    found = rows.new_empty((LEVELS + 1) * 2 * count * blocks + 2)
    levels = found[:-2].view(LEVELS + 1, 2, count, blocks)
    torch.amin(by_block, -1, out=levels[0, 0])
    levels[0, 1] = _complement(by_block.amax(-1))
    if rows.is_floating_point():
        # Both extremes of a block with NaN are NaN.
        levels[0].masked_fill_(levels[0].isnan(), -torch.inf)
    for level in range(1, LEVELS):
        shorter, step = levels[level - 1], 1 << (level - 1)
        levels[level] = shorter
        if step < blocks:
            torch.minimum(shorter[..., :-step], shorter[..., step:], out=levels[level, ..., :-step])
    levels[LEVELS] = levels[0].amin(-1, keepdim=True)
    torch.amin(levels[0], (1, 2), out=found[-2:])
    return found


def whole_blocks(rows: Tensor, blocks: int) -> Tensor:
    """[rows, blocks, ELEMENTS]: each row continued by its last element up to a block's end."""
    missing = blocks * ELEMENTS - rows.shape[1]
    if missing:
        rows = torch.cat([rows, rows[:, -1:].expand(-1, missing)], 1)
    return rows.unflatten(1, (blocks, ELEMENTS))


def _complement(x: Tensor) -> Tensor:
    return -x if x.is_floating_point() else ~x
