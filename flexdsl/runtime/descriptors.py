"""Tensors as the copy engine takes them: descriptors of rank 4, blocks of [1, 1, rows, width].

Base address and strides must be multiples of 16 bytes and the last dimension contiguous; a tensor
that is not so is copied once, here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_ALIGNMENT = 16  # bytes


def aligned(x: Tensor) -> Tensor:
    """`x` itself where a descriptor can be made of it, else a copy in rows of whole 16 bytes."""
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
    return like.new_empty((*shape[:3], padded))[..., : shape[3]]


def describe(x: Tensor, rows: int, width: int) -> TensorDescriptor:
    """The descriptor of an aligned tensor for blocks of `rows` by `width`."""
    per_row = _ALIGNMENT // x.element_size()
    strides = list(x.stride())
    # The stride of a dimension of length 1 is never used, but it is checked.
    for axis in (2, 1, 0):
        if x.shape[axis] == 1:
            inner = strides[axis + 1] * x.shape[axis + 1]
            strides[axis] = -(-inner // per_row) * per_row
    return TensorDescriptor(x, list(x.shape), strides, [1, 1, rows, width])
