"""Tensors in blocks, as kernels with descriptors take them: base, lengths and strides.

Base address and strides must be multiples of 16 bytes and the last dimension contiguous; a tensor
that is not so is copied once, here. What a launcher makes of the blocks is its own: triton's
descriptors (`descriptors.py`), or the words of a kernel of a bundle (`bundled.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A tensor that a kernel reads and writes by blocks.

    Attributes:
        tensor: its base.
        shape, strides: lengths, and strides in elements; those of a dimension of length 1 are such
            as a descriptor takes.
        block: lengths of a block.
    """

    tensor: Tensor
    shape: list[int]
    strides: list[int]
    block: list[int]


def aligned(x: Tensor) -> Tensor:
    """`x` itself where a descriptor can be made of it, else a copy in rows of whole 16 bytes."""
    rest = x.shape[3] * x.element_size() % _ALIGNMENT + x.data_ptr() % _ALIGNMENT
    if rest == 0 and x.is_contiguous():
        return x
    strides = x.stride()
    whole = all(
        size == 1 or (stride > 0 and stride * x.element_size() % _ALIGNMENT == 0)
        for size, stride in zip(x.shape[:3], strides[:3], strict=True)
    )
    if whole and strides[3] == 1 and x.data_ptr() % _ALIGNMENT == 0:
        return x
    return empty_aligned(x.shape, x).copy_(x)


def empty_aligned(shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    """An empty tensor of dtype and device of `like`, its rows padded to whole 16 bytes."""
    per_row = _ALIGNMENT // like.element_size()
    padded = -(-shape[3] // per_row) * per_row
    if padded == shape[3]:
        return like.new_empty(shape)
    return like.new_empty((*shape[:3], padded))[..., : shape[3]]


def blocks_of(x: Tensor, rows: int, width: int) -> Blocks:
    """The blocks [1, 1, rows, width] of an aligned tensor [B, H, L, D]."""
    per_row = _ALIGNMENT // x.element_size()
    strides = list(x.stride())
    # The stride of a dimension of length 1 is never used, but it is checked.
    for axis in (2, 1, 0):
        if x.shape[axis] == 1:
            inner = strides[axis + 1] * x.shape[axis + 1]
            strides[axis] = -(-inner // per_row) * per_row
    return Blocks(x, list(x.shape), strides, [1, 1, rows, width])


def flat_blocks(x: Tensor, count: int) -> Blocks:
    """The blocks of `count` elements of a contiguous tensor."""
    return Blocks(x, [x.numel()], [1], [count])
