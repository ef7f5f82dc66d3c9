"""Are the derivatives of a score finite, at pairs that a mask excludes too?

The weight of such a pair is 0, and times what is infinite it would be no number, and spoil the
gradients of a whole tile. So kernels put 0 in the place of such derivatives, where they may be
infinite; and a score is not rewritten where those of the new one may be and the old one's are not,
as others than kernels multiply them, too. Judged by the forms alone: scores, positions and
parameters are finite, and elements of captured tensors need not be. No value is computed.
"""

from __future__ import annotations

import math

from flexdsl.analysis.derivative import derivatives
from flexdsl.ir import Expr, Op, Type, const, var

# Infinite or no number for some finite operands; so is a quotient.
_UNBOUNDED = frozenset({Op.EXP, Op.EXP2, Op.LOG, Op.LOG2, Op.SQRT, Op.RSQRT})
_BOUNDED = frozenset({Op.TANH, Op.SIGMOID})
# Finite for some operands that are not.
_GUARDS = frozenset({Op.WHERE, Op.MIN, Op.MAX}) | _UNBOUNDED

_OF_PAIRS = frozenset({"q", "kv", "score"})

_Place = tuple[Expr, bool]  # a float, and whether its being infinite is of no consequence


def is_finite(number: Expr) -> bool:
    """Is a number finite at all pairs of a batch and head if it is at those that count?

    What is the same for all pairs is.
    """
    stack, seen = [number], set[Expr]()
    while stack:
        node = stack.pop()
        if node.type is not Type.FLOAT or not node.variables & _OF_PAIRS or node in seen:
            continue
        seen.add(node)
        if _may_be_infinite(node) or (node.op is Op.DIV and node.args[1].variables & _OF_PAIRS):
            return False
        stack.extend(node.args)
    return True


def slopes_stay_finite(new: Expr, old: Expr) -> bool:
    """Is each derivative of `new` finite wherever that of `old` is? False is always safe.

    A kernel has the one by the score, and those by the captured tensors that are learned: each is
    judged beside its own, and that by an element which `old` does not load beside the first one.
    """
    slopes, before = _slopes(new), _slopes(old)
    of_score = before.get(var("score"), const(0.0))
    return all(_is_as_finite(slope, before.get(by, of_score)) for by, slope in slopes.items())


def _is_as_finite(new: Expr, old: Expr) -> bool:
    known, divisors = _shown(old)
    seen: set[_Place] = set()
    stack = [(new, False)]
    while stack:
        node, bounded = place = stack.pop()
        if node.type is not Type.FLOAT or {place, (node, False)} & known or place in seen:
            continue
        seen.add(place)
        if _may_be_infinite(node):
            return False
        args = node.args
        if node.op is Op.DIV:
            if args[1].op is not Op.CONST and args[1] not in divisors:
                return False
            args = args[:1]
        stack.extend((a, bounded or node.op in _BOUNDED) for a in args)
    return True


def _shown(slope: Expr) -> tuple[set[_Place], set[Expr]]:
    """What makes a derivative infinite if it is, and what does so if it is 0."""
    known: set[_Place] = set()
    divisors: set[Expr] = set()
    stack = [(slope, False)]
    while stack:
        node, bounded = place = stack.pop()
        if node.type is not Type.FLOAT or place in known:
            continue
        known.add(place)
        args = node.args
        if node.op is Op.DIV:
            divisors.add(args[1])
            args = args[:1]
        if node.op not in _GUARDS:
            stack.extend((a, bounded or node.op in _BOUNDED) for a in args)
    return known, divisors


def _slopes(score: Expr) -> dict[Expr, Expr]:
    """The derivatives of a score by itself and by each element that it loads."""
    found = derivatives(score)
    return {node: found[node] for node in found if node.op in (Op.VAR, Op.LOAD)}


def _may_be_infinite(node: Expr) -> bool:
    if node.op is Op.CONST:
        return not math.isfinite(float(str(node.attribute)))
    return node.op is Op.LOAD or node.op in _UNBOUNDED
