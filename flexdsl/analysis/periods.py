"""Remainders without `%`: x % T as x - k * T for each of the few periods k that x runs through.

Block diffusion's `q % n` with q < 2 * n becomes `q` for q < n and `q - n` from there on, which the
solver takes. It holds for the lengths of one plan only. Remainders of many periods stay.
"""

from __future__ import annotations

from flexdsl.analysis.prove import Prover
from flexdsl.ir import Expr, Op, Type, apply, const, walk

MAX_PERIODS = 3
_QUOTIENTS = frozenset({Op.FLOORDIV, Op.MOD, Op.SHR})


def unrolled(expr: Expr, prover: Prover) -> Expr:
    """`expr` with its remainders of few periods written out; the same on the whole grid."""
    done: dict[Expr, Expr] = {}
    for node in walk(expr):
        args = tuple(done[a] for a in node.args)
        if node.op is Op.LOAD:
            done[node] = node  # which of its indices leave the tensor was found for it as it is
        elif node.op in _QUOTIENTS and args[1].op is Op.CONST:
            done[node] = _on_branches(node.op, args[0], args[1], prover)
        elif args == node.args:
            done[node] = node
        else:
            done[node] = apply(node.op, *args)
    return done[expr]


def _on_branches(op: Op, x: Expr, divisor: Expr, prover: Prover) -> Expr:
    """`x op divisor`, where a choice in x becomes a choice between two of them."""
    if x.op is Op.WHERE:
        condition, a, b = x.args
        if {a.op, b.op} != {Op.CONST}:
            on_a, on_b = (_on_branches(op, y, divisor, prover) for y in (a, b))
            return apply(Op.WHERE, condition, on_a, on_b)
    return _remainder(x, divisor, prover) if op is Op.MOD else apply(op, x, divisor)


def _remainder(x: Expr, divisor: Expr, prover: Prover) -> Expr:
    whole = apply(Op.MOD, x, divisor)
    size = divisor.attribute
    if whole.op is not Op.MOD or not isinstance(size, int) or size <= 0 or x.type is not Type.INDEX:
        return whole
    found = prover.range_of(x)
    if found is None:
        return whole
    first, last = (end // size for end in found)
    if last - first >= MAX_PERIODS:
        return whole
    result = apply(Op.SUB, x, const(last * size))
    for period in range(last - 1, first - 1, -1):
        before = apply(Op.LT, x, const((period + 1) * size))
        result = apply(Op.WHERE, before, apply(Op.SUB, x, const(period * size)), result)
    return result
