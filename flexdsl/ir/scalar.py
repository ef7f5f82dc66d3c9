"""What every op computes on plain Python numbers: the meaning that constant folding uses.

Python's own numbers only, so that this needs no numpy; `evaluate.py` has the same table for arrays.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from flexdsl.ir.ops import Op


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow or cancellation."""
    e = math.exp(-abs(x))
    return 1.0 / (1.0 + e) if x >= 0 else e / (1.0 + e)


SCALAR: dict[Op, Callable[..., Any]] = {
    Op.AND: lambda a, b: a and b,
    Op.OR: lambda a, b: a or b,
    Op.NOT: operator.not_,
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
    Op.EQ: operator.eq,
    Op.NE: operator.ne,
    Op.ADD: operator.add,
    Op.SUB: operator.sub,
    Op.MUL: operator.mul,
    Op.DIV: operator.truediv,
    Op.FLOORDIV: operator.floordiv,
    Op.MOD: operator.mod,
    Op.NEG: operator.neg,
    Op.MIN: min,
    Op.MAX: max,
    Op.ABS: abs,
    Op.BITAND: operator.and_,
    Op.BITOR: operator.or_,
    Op.BITXOR: operator.xor,
    Op.SHL: operator.lshift,
    Op.SHR: operator.rshift,
    Op.WHERE: lambda condition, a, b: a if condition else b,
    Op.TO_FLOAT: float,
    Op.TO_INDEX: int,
    Op.EXP: math.exp,
    Op.EXP2: math.exp2,
    Op.LOG: math.log,
    Op.LOG2: math.log2,
    Op.SQRT: math.sqrt,
    Op.RSQRT: lambda x: 1.0 / math.sqrt(x),
    Op.SIN: math.sin,
    Op.COS: math.cos,
    Op.TANH: math.tanh,
    Op.SIGMOID: sigmoid,
    Op.FLOOR: lambda x: float(math.floor(x)),
}
