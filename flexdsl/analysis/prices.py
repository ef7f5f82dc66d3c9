"""What an operation of a pair costs beside the others: an addition is 1.

Rough, and the same for all GPUs: it tells what is worth doing otherwise, not how long it takes.
"""

from __future__ import annotations

from flexdsl.ir import Op

_DEAR = frozenset({Op.EXP, Op.EXP2, Op.LOG, Op.LOG2, Op.SIN, Op.COS, Op.TANH, Op.SIGMOID})
_SLOW = frozenset({Op.DIV, Op.FLOORDIV, Op.MOD, Op.SQRT, Op.RSQRT, Op.LOAD})


def price_of(op: Op) -> int:
    """The price of one operation."""
    if op in _DEAR:
        return 20
    if op in _SLOW:
        return 8
    return 2 if op in (Op.TO_FLOAT, Op.TO_INDEX) else 1
