"""Indices of loads with what the loop over tiles changes apart from the rest.

    table[h, q - kv + shift]    table + h * stride_0 + (q + shift) * stride_1 - kv * stride_1
    bias[row(q) - row(kv), h]   the row of the query is counted once, not for each key

The address of a row is computed before the loop, and a pair costs one addition to it. A sum is
turned where it is linear, also inside of a bound; what else is made of both positions stands as it
is. How addresses are written is for `lower.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flexdsl.analysis.affine import Linear, LinearForms
from flexdsl.ir import Capture, Expr, Op, apply, load, walk

_POSITIONS = frozenset({"q", "kv"})


def turn_indices(roots: Iterable[Expr], outer: Collection[str]) -> dict[Expr, Expr]:
    """Each node below `roots` with indices of loads as sums or differences of two such parts.

    Args:
        outer: variables that are known before the loop.
    """
    forms = LinearForms()
    done: dict[Expr, Expr] = {}
    for node in walk(*roots):
        args = tuple(done[a] for a in node.args)
        if isinstance(node.attribute, Capture):
            done[node] = load(node.attribute, *(_turned(a, outer, forms) for a in args))
        elif args != node.args:
            done[node] = apply(node.op, *args)
        else:
            done[node] = node
    return done


def parts_of(index: Expr, outer: Collection[str]) -> tuple[Expr, str, Expr] | None:
    """A turned index as what is known before the loop, "+" or "-", and the rest; else None."""
    if index.op not in (Op.ADD, Op.SUB):
        return None
    first, second = index.args
    apart = first.variables <= set(outer) and not second.variables <= set(outer)
    if not apart or _POSITIONS.isdisjoint(first.variables):
        return None
    return first, "+" if index.op is Op.ADD else "-", second


def _turned(index: Expr, outer: Collection[str], forms: LinearForms) -> Expr:
    if index.variables <= set(outer) or _POSITIONS.isdisjoint(index.variables & set(outer)):
        return index
    if index.op in (Op.MIN, Op.MAX):
        return apply(index.op, *(_turned(a, outer, forms) for a in index.args))
    form = forms.of(index)
    inner = tuple(t for t in form.terms if not t[0].variables <= set(outer))
    rest = Linear(tuple(t for t in form.terms if t not in inner), form.constant)
    if not inner or all(_POSITIONS.isdisjoint(atom.variables) for atom, _ in rest.terms):
        return index
    negative = all(coefficient < 0 for _, coefficient in inner)
    moving = Linear(inner, 0).times(-1 if negative else 1)
    return apply(Op.SUB if negative else Op.ADD, rest.to_expr(), moving.to_expr())
