"""Tensors in blocks, as kernels with descriptors take them: base, lengths and strides.

Base address and strides must be multiples of 16 bytes and the last dimension contiguous; a tensor
that is not so is copied once, here. What a launcher makes of the blocks is its own: triton's
descriptors (`descriptors.py`), or the words of a kernel of a bundle (`bundled.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes


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
    rest = x.shape[3] * x.element_size() % ALIGNMENT + x.data_ptr() % ALIGNMENT
    if rest == 0 and x.is_contiguous():
        return x
    strides = x.stride()
    whole = all(
        size == 1 or (stride > 0 and stride * x.element_size() % ALIGNMENT == 0)
        for size, stride in zip(x.shape[:3], strides[:3], strict=True)
    )
    if whole and strides[3] == 1 and x.data_ptr() % ALIGNMENT == 0:
        return x
    strides = strides_of(x.shape, x.dtype)
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)


def aligned_rows(x: Tensor) -> Tensor:
    """`x` itself where it is contiguous and begins at whole 16 bytes, else such a copy."""
    x = x.contiguous()
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()


def strides_of(shape: Sequence[int], dtype: torch.dtype, padded: bool = True) -> tuple[int, ...]:
    """Strides of a tensor [..., D] in rows of whole 16 bytes, or else of a contiguous one."""
    if not shape:
        return ()
    per_row = ALIGNMENT // dtype.itemsize if padded else 1
    *outer, width = shape
    steps = accumulate(reversed(outer), mul, initial=-(-width // per_row) * per_row)
    return (*reversed([*steps][:-1]), 1)


def blocks_of(x: Tensor, rows: int, width: int) -> Blocks:
    """The blocks [1, 1, rows, width] of an aligned tensor [B, H, L, D]."""
    per_row = ALIGNMENT // x.element_size()
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
