"""Blocks of tensors as triton's descriptors, and how a block lies in shared memory."""

from __future__ import annotations

from functools import cache
from typing import Any

from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia import hopper
from triton.tools.tensor_descriptor import TensorDescriptor

from flexdsl.codegen import Language
from flexdsl.runtime.blocks import Blocks


def describe(blocks: Blocks, language: Language) -> Any:
    """The descriptor of blocks [1, 1, rows, width], or of flat ones, for a `language`."""
    parts = blocks.tensor, blocks.shape, blocks.strides, blocks.block
    if language is Language.TRITON:
        return TensorDescriptor(*parts)
    if len(blocks.block) == 1:
        return hopper.TensorDescriptor(*parts, layout_of_rows(blocks.block[0]))
    *_, rows, width = blocks.block
    layout = layout_of_blocks(rows, width, blocks.tensor.element_size())
    return hopper.TensorDescriptor(*parts, layout)


@cache
def layout_of_rows(count: int) -> NVMMASharedLayout:
    """How blocks of `count` float32 numbers lie in shared memory."""
    return NVMMASharedLayout.get_default_for([count], gl.float32)


@cache
def layout_of_blocks(rows: int, width: int, itemsize: int) -> NVMMASharedLayout:
    """How blocks [1, 1, rows, width] lie in shared memory: swizzled for matrix products."""
    element = {2: gl.float16, 4: gl.float32}[itemsize]
    return NVMMASharedLayout.get_default_for([1, 1, rows, width], element)
