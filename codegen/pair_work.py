"""How much a mask costs a kernel for each pair of a masked tile: an estimate in instructions.

It is for choices between ways to apply a mask, not for predictions of time. What depends on the
outer position alone is computed before the loops and costs nothing here; what depends on the inner
one alone is computed once for the two outer positions that a thread has of a tile of scores.
"""

from __future__ import annotations

from flexdsl.analysis.signs import is_non_negative, is_positive, power_of_two
from flexdsl.ir import Expr, Op, walk

from .comparisons import turn_comparisons

_LOGIC = (Op.AND, Op.OR, Op.NOT)  # a comparison takes them along
_DIVISION, _LOAD = 6, 8  # a product, shifts and the sign; an address and the wait


def pair_work(mask: Expr, inner: str) -> float:
    """Instructions for each pair, without the ends of the axes and the choice of the score.

    Args:
        inner: along which the kernel's loops go, "kv" or "q".
    """
    return sum(_work(node, inner) for node in walk(turn_comparisons(mask, inner).expr))


def _work(node: Expr, inner: str) -> float:
    if inner not in node.variables or node.op in (Op.VAR, *_LOGIC):
        return 0.0
    shared = 1.0 if node.variables >= {"q", "kv"} else 0.5
    match node.op:
        case Op.LOAD:
            return shared * _LOAD
        case Op.FLOORDIV | Op.MOD if not _is_shift(node):
            return shared * _DIVISION
    return shared


def _is_shift(node: Expr) -> bool:
    value, by = node.args
    return is_non_negative(value) and is_positive(by) and power_of_two(by) is not None
