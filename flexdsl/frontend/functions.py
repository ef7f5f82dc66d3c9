"""The functions that a mod may call: `fx.where`, `fx.minimum`, `fx.tanh`, ...

Each takes symbolic values while a mod is traced, and plain numbers or tensors when the user calls
the mod himself, so that one function is both the kernel's source and its own oracle.
"""

from __future__ import annotations

import sys
from typing import Any

from flexdsl.frontend.symbolic import Symbolic, emit
from flexdsl.ir import OPS, Op
from flexdsl.ir.scalar import SCALAR


def _call(op: Op, *operands: Any) -> Any:
    if any(isinstance(o, Symbolic) for o in operands):
        return emit(op, *operands)
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(o, torch.Tensor) for o in operands):
        name = {Op.MIN: "minimum", Op.MAX: "maximum"}.get(op, OPS[op].symbol)
        tensors = [torch.as_tensor(o) for o in operands]
        return getattr(torch, "where" if op is Op.WHERE else name)(*tensors)
    return SCALAR[op](*operands)


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`. Both are computed."""
    return _call(Op.WHERE, condition, a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two numbers."""
    return _call(Op.MIN, a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two numbers."""
    return _call(Op.MAX, a, b)


def abs(x: Any) -> Any:
    """Absolute value."""
    return _call(Op.ABS, x)


def exp(x: Any) -> Any:
    """e to the power of `x`."""
    return _call(Op.EXP, x)


def exp2(x: Any) -> Any:
    """Two to the power of `x`."""
    return _call(Op.EXP2, x)


def log(x: Any) -> Any:
    """Natural logarithm."""
    return _call(Op.LOG, x)


def log2(x: Any) -> Any:
    """Logarithm to base 2."""
    return _call(Op.LOG2, x)


def sqrt(x: Any) -> Any:
    """Square root."""
    return _call(Op.SQRT, x)


def rsqrt(x: Any) -> Any:
    """One over the square root."""
    return _call(Op.RSQRT, x)


def sin(x: Any) -> Any:
    """Sine of an angle in radians."""
    return _call(Op.SIN, x)


def cos(x: Any) -> Any:
    """Cosine of an angle in radians."""
    return _call(Op.COS, x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return _call(Op.TANH, x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return _call(Op.SIGMOID, x)


def floor(x: Any) -> Any:
    """`x` rounded down, as a float."""
    return _call(Op.FLOOR, x)
