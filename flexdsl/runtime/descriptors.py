"""Tensors as the copy engine takes them: descriptors of rank 4, blocks of [1, 1, rows, width].

Base address and strides must be multiples of 16 bytes and the last dimension contiguous; a tensor
that is not so is copied once, here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia import hopper
from triton.tools.tensor_descriptor import TensorDescriptor

from flexdsl.codegen import Language

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


def describe(x: Tensor, rows: int, width: int, language: Language) -> Any:
    """The descriptor of an aligned tensor, in blocks of `rows` by `width`, for a `language`."""
    per_row = _ALIGNMENT // x.element_size()
    strides = list(x.stride())
    # The stride of a dimension of length 1 is never used, but it is checked.
    for axis in (2, 1, 0):
        if x.shape[axis] == 1:
            inner = strides[axis + 1] * x.shape[axis + 1]
            strides[axis] = -(-inner // per_row) * per_row
    block = [1, 1, rows, width]
    if language is Language.TRITON:
        return TensorDescriptor(x, list(x.shape), strides, block)
    layout = layout_of_blocks(rows, width, x.element_size())
    return hopper.TensorDescriptor(x, list(x.shape), strides, block, layout)


def describe_flat(x: Tensor, count: int) -> Any:
    """The descriptor, for Gluon, of the elements of a contiguous tensor; blocks of `count`."""
    return hopper.TensorDescriptor(x, [x.numel()], [1], [count], layout_of_rows(count))


@cache
def layout_of_rows(count: int) -> NVMMASharedLayout:
    """How blocks of `count` float32 numbers lie in shared memory."""
    return NVMMASharedLayout.get_default_for([count], gl.float32)


@cache
def layout_of_blocks(rows: int, width: int, itemsize: int) -> NVMMASharedLayout:
    """How blocks [1, 1, rows, width] lie in shared memory: swizzled for matrix products."""
    element = {2: gl.float16, 4: gl.float32}[itemsize]
    return NVMMASharedLayout.get_default_for([1, 1, rows, width], element)
