"""Triton's interpreter, made to multiply bfloat16 numbers: by itself it multiplies their bits.

Seen in triton 3.7.1. Nothing is changed where kernels are compiled.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def multiply_bfloat16() -> None:
    """Let matrix products of the interpreter take bfloat16 numbers for what they are."""
    import triton.language as tl
    from triton.runtime import interpreter

    plain = interpreter.InterpreterBuilder.create_dot

    def widened(builder: Any, x: Any) -> Any:
        return builder.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x

    def create_dot(builder: Any, a: Any, b: Any, *others: Any) -> Any:
        return plain(builder, widened(builder, a), widened(builder, b), *others)

    interpreter.InterpreterBuilder.create_dot = create_dot
