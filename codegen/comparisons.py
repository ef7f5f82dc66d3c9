"""Comparisons of a mask, so turned that a pair costs a comparison and nothing else.

    q - kv < keys                    kv > q - keys
    abs(row(q) - row(kv)) <= reach   row(kv) >= row(q) - reach  and  row(kv) <= row(q) + reach

What the loop over tiles changes stands alone on one side, and the other side is computed once, for
a row, before the loop. A sum with a parameter may have no 32 bits ("no window" is 2**31 - 1): such
sums are named, for `lower.py` to hold at the nearest number, with which the comparison is the same.

Conditions of the same number of a key, as its row in an image, are joined first: several keys of a
thread have it in common, and the compiler then has the answer once for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial, reduce

from flexdsl.analysis.signs import is_non_negative
from flexdsl.analysis.truth import flatten
from flexdsl.analysis.values import substitute
from flexdsl.ir import Expr, Op, Type, apply, walk

SMALL = 2**20  # a constant that a position takes without leaving 32 bits

_MIRRORED = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE}
_BELOW = (Op.LT, Op.LE)
Term = tuple[Expr, bool]  # and whether it is added


@dataclass
class Turned:
    """A mask with its comparisons turned.

    Attributes:
        expr: the mask.
        held: its sums and differences that are to be held inside 32 bits.
    """

    expr: Expr
    held: set[Expr] = field(default_factory=set[Expr])


def turn_comparisons(mask: Expr, inner: str) -> Turned:
    """The same mask for a loop over tiles along `inner`, "kv" or "q"."""
    turned = Turned(mask)
    new: dict[Expr, Expr] = {}
    for node in walk(mask):
        found = _turn(node, inner, turned.held)
        if found is not None:
            new[node] = found
    # Two comparisons for a distance pay as parts of a conjunction, not below an `or`.
    for node in flatten(mask) if mask.op is Op.AND else [mask]:
        found = _turn_distance(node, inner, turned.held)
        if found is not None:
            new[node] = found
    turned.expr = _joined(substitute(mask, new) if new else mask, inner)
    return turned


def _joined(mask: Expr, inner: str) -> Expr:
    """The mask with conditions of the same number of `inner` side by side."""
    if mask.op is not Op.AND:
        return mask
    groups: dict[Expr, list[Expr]] = {}
    for part in flatten(mask):
        number = _number_of(part, inner)
        groups.setdefault(part if number is None else number, []).append(part)
    if len(groups) == 1 or all(len(parts) == 1 for parts in groups.values()):
        return mask
    joined = [reduce(partial(apply, Op.AND), parts) for parts in groups.values()]
    return reduce(partial(apply, Op.AND), joined)


def _number_of(part: Expr, inner: str) -> Expr | None:
    """What a condition asks of `inner` alone, and compares with what is of the other one alone."""
    sides = [a for a in part.args if inner in a.variables]
    lone = part.op in _MIRRORED and len(sides) == 1 and {"q", "kv"} <= part.variables
    return sides[0] if lone and not {"q", "kv"} <= sides[0].variables else None


def _turn(node: Expr, inner: str, held: set[Expr]) -> Expr | None:
    """A comparison of a pair, turned; None for all else, and where nothing is gained."""
    if not _compares_pairs(node):
        return None
    left, right = node.args
    return _alone(node.op, left, right, inner, held)


def _turn_distance(node: Expr, inner: str, held: set[Expr]) -> Expr | None:
    """|x| <= y as x <= y and -x <= y, both turned; None as above."""
    if not _compares_pairs(node):
        return None
    op, (left, right) = node.op, node.args
    if right.op is Op.ABS:
        op, left, right = _MIRRORED[op], right, left
    if left.op is not Op.ABS or op not in _BELOW:
        return None
    (x,) = left.args
    sides = [_alone(op, side, right, inner, held) for side in (x, apply(Op.NEG, x))]
    return None if sides[0] is None or sides[1] is None else apply(Op.AND, sides[0], sides[1])


def _compares_pairs(node: Expr) -> bool:
    pairs = node.op in _MIRRORED and {"q", "kv"} <= node.variables
    return pairs and node.args[0].type is Type.INDEX


def _alone(op: Op, left: Expr, right: Expr, inner: str, held: set[Expr]) -> Expr | None:
    """`left op right` with one term of `inner` alone on a side, and two terms on the other."""
    terms = [*_terms(left, True), *_terms(right, False)]
    moving = [t for t in terms if inner in t[0].variables]
    staying = [t for t in terms if inner not in t[0].variables]
    if len(moving) != 1 or len(staying) != 2:
        return None
    ((term, added),) = moving
    if {"q", "kv"} <= term.variables:
        return None
    # The others as they stand on the other side of the term; a constant is the second.
    others = [(x, plus != added) for x, plus in staying]
    (a, a_plus), (b, b_plus) = sorted(
        others, key=lambda t: (not t[1], t[0].op is Op.CONST, not t[0].variables)
    )
    if not a_plus:
        return None
    bound = apply(Op.ADD if b_plus else Op.SUB, a, b)
    if not _is_small(a, b):
        if Op.CONST in (a.op, b.op) or not any(is_non_negative(x) for x in (a, term)):
            return None
        held.add(bound)
    return apply(op if added else _MIRRORED[op], term, bound)


def _terms(node: Expr, added: bool) -> Iterator[Term]:
    """The terms of a sum that are of a row or of a key, and whether each is added or taken away."""
    mixed = {"q", "kv"} <= node.variables
    match node.op:
        case Op.ADD | Op.SUB if mixed:
            yield from _terms(node.args[0], added)
            yield from _terms(node.args[1], added == (node.op is Op.ADD))
        case Op.NEG if mixed:
            yield from _terms(node.args[0], not added)
        case _:
            yield node, added


def _is_small(a: Expr, b: Expr) -> bool:
    """Is the sum one of a small constant and of what is computed from positions alone?"""
    if b.op is not Op.CONST:
        return False
    free = all(n.op not in (Op.LOAD, Op.PARAM) for n in walk(a))
    return free and abs(int(str(b.attribute))) <= SMALL
