"""Whether the rows of a tile may leave gaps between them, by the form of their ends alone.

An anchor is a position that each row holds, unless it is empty: an end, or one between two ends,
as `q` in min(first[q], q) <= kv < max(stop[q], q + 1). Where anchors move by little from a row to
the next, rows lie close together whatever the tensors hold that the ends are loaded from. Nothing
is evaluated here; what rows really are is looked at in `closed_exact.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from flexdsl.analysis.affine import LinearForms
from flexdsl.analysis.closed_form import BOTTOM, Interval
from flexdsl.analysis.prove import Prover
from flexdsl.ir import Expr, Op, apply, var


def slope_of_anchor(interval: Interval, prover: Prover) -> int | None:
    """The most by which an anchor moves from a row to the next; None where no anchor is known.

    What lies between the least and the largest position of a tile is in some row, or between the
    anchors of two: such a gap has fewer positions than the slope times the rows of the tile. With
    a slope of at most 1 only empty rows make gaps, since those that follow one another touch.
    """
    outer = var(prover.outer)
    slopes = (_slope(end, outer) for end in _anchors(interval, prover.timeless, outer))
    return min((s for s in slopes if s is not None), default=None)


def is_anchored(interval: Interval, prover: Prover) -> bool:
    """Do rows that follow one another touch, but for empty ones, whatever they load?"""
    slope = slope_of_anchor(interval, prover)
    return slope is not None and slope <= 1


def _anchors(interval: Interval, prover: Prover, outer: Expr) -> Iterator[Expr]:
    """Both ends, and what is proven to be nowhere below the lower one and below the upper one."""
    lower, upper = interval.lower, interval.upper
    if upper.op is Op.WHERE and upper.args[2] is BOTTOM:
        upper = upper.args[1]  # the other rows are empty
    yield from (lower, upper)
    for line in dict.fromkeys(_leaves(lower)):
        held = apply(Op.AND, apply(Op.LE, lower, line), apply(Op.LT, line, upper))
        if _slope(line, outer) is not None and prover.always(held):
            yield line


def _leaves(end: Expr) -> Iterator[Expr]:
    """What an end is the least and the largest of."""
    if end.op not in (Op.MIN, Op.MAX):
        yield end
        return
    for part in end.args:
        yield from _leaves(part)


def _slope(end: Expr, outer: Expr) -> int | None:
    """The most by which an end changes from a row to the next; None if that is not known."""
    slopes: list[int] = []
    for leaf in _leaves(end):
        terms = LinearForms().of(leaf).terms
        if any(outer.variables & atom.variables for atom, _ in terms if atom is not outer):
            return None
        slopes.append(abs(dict(terms).get(outer, 0)))
    return max(slopes)
