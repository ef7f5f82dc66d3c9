"""Two intervals of a closed form made one, or one made to reach over the other, by a condition.

The union stays the same at every outer position. It is done where bounds of tiles stay exact, so
that a kernel has fewer loops and a tile that is full in both together is full in one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

from flexdsl.analysis.closed_form import (
    BOTTOM,
    TOP,
    TRUE,
    ClosedForm,
    Declined,
    Interval,
)
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.solve import Piece, Solver, operands
from flexdsl.analysis.values import substitute
from flexdsl.ir import Expr, Op, apply, const, var


@dataclass(frozen=True, slots=True)
class Part:
    """An interval and the outer positions in which it is not empty by its guard.

    Attributes:
        domain: outer positions [lower, upper), and a condition without them.
    """

    interval: Interval
    domain: Piece

    @property
    def is_everywhere(self) -> bool:
        """Has it no guard at all?"""
        return self.domain == Piece(BOTTOM, TOP)


def overlay(parts: list[Part], outer: str) -> list[Interval]:
    """The intervals, without those that hold everything for the first or last outer positions.

    The global tokens of a transposed plan: [kv, no bound) for kv < 4 beside [kv, kv + window).
    They go into every other interval that can take them, so that a tile of both kinds of rows which
    is full in the union is full in one.
    """
    for cover in parts:
        if not _covers(cover):
            continue
        others = [p for p in parts if p is not cover]
        united = [_united(cover, other, outer) for other in others]
        if any(u is not None for u in united):
            return overlay([u or o for u, o in zip(united, others, strict=True)], outer)
    return [part.interval for part in parts]


def _covers(part: Part) -> bool:
    """Has it no upper bound, and only the first or only the last outer positions?"""
    upper, domain = part.interval.upper, part.domain
    if upper.op is not Op.WHERE or upper.args[1:] != (TOP, BOTTOM):
        return False
    return (domain.lower is BOTTOM or domain.upper is TOP) and not part.is_everywhere


def _united(cover: Part, other: Part, outer: str) -> Part | None:
    """`other` where the cover does not hold, and everything from its lower end where it does."""
    old, domain = other.interval, cover.domain
    if old.by_rows:
        return None
    first, last, row = var(f"{outer}_first"), var(f"{outer}_last"), var(outer)
    if cover.interval.lower is old.lower:
        # Equal lower ends: the least and the largest are those of the tile, whoever has them. That
        # is so where each row has one of the two: else rows of neither would be counted.
        low, same = None, old.live_lower is substitute(old.lower, {row: first})
        same = same and old.full_lower is substitute(old.lower, {row: last})
        if not (same and other.is_everywhere):
            return None
    elif cover.interval.lower is BOTTOM:
        low = BOTTOM
    else:
        return None
    if domain.lower is BOTTOM and domain.upper is TOP:
        some = all_ = inside = domain.guard
        rest: dict[Expr, Expr] = {}
    elif domain.lower is BOTTOM:
        end = domain.upper
        inside, some, all_ = (_both(domain.guard, Op.LT, x, end) for x in (row, first, last))
        rest = {first: _if(domain.guard, apply(Op.MAX, first, end), first)}
    else:
        end = domain.lower
        inside, some, all_ = (_both(domain.guard, Op.GE, x, end) for x in (row, last, first))
        before = apply(Op.MIN, last, apply(Op.SUB, end, const(1)))
        rest = {last: _if(domain.guard, before, last)}

    def ends(name: str, everything: Expr) -> dict[str, Any]:
        """The end for a row, the live one and the full one of a tile."""
        live, full = f"live_{name}", f"full_{name}"
        of_rest = substitute(getattr(old, full), rest)
        return {
            name: _if(inside, everything, getattr(old, name)),
            live: _if(some, everything, getattr(old, live)),
            full: _if(all_, everything, of_rest),
        }

    lows = {} if low is None else ends("lower", low)
    highs = {} if old.upper is TOP else ends("upper", TOP)
    return Part(replace(old, **lows, **highs), Piece(BOTTOM, TOP))


def _both(guard: Expr, op: Op, x: Expr, y: Expr) -> Expr:
    return apply(Op.AND, guard, apply(op, x, y))


def _if(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return apply(Op.WHERE, condition, yes, no)


def absorb(form: ClosedForm, prover: Prover) -> ClosedForm:
    """The same union, where an interval reaches over one beside it wherever the two touch.

    A tile that is full in the union of both is then full in one alone. It is done for a first
    interval whose far end is constant, and a second one whose near end rises.
    """
    intervals = list(form.intervals)
    for k in range(len(intervals)):
        for first in form.intervals:
            if first is not form.intervals[k]:
                intervals[k] = _reach_down(first, intervals[k], prover) or intervals[k]
                intervals[k] = _reach_up(first, intervals[k], prover) or intervals[k]
    return replace(form, intervals=tuple(intervals))


def _reach_down(first: Interval, second: Interval, prover: Prover) -> Interval | None:
    """`second` from the lower end of `first` where its own is at most the upper end of `first`."""
    outer, base, lower = prover.outer, first.lower, second.lower
    if _is_fixed(first, second) or outer in base.variables or outer not in lower.variables:
        return None
    if not prover.timeless.always(apply(Op.LE, base, lower)):
        return None
    # What never cuts `second` does not part the two: they end together there.
    tops = [
        x
        for x in operands(Op.MIN, first.upper)
        if not prover.timeless.always(apply(Op.GE, x, second.upper))
    ]
    domain = _rows_where([apply(Op.LE, lower, x) for x in tops], prover)
    if domain is None or domain.lower is not BOTTOM:
        return None
    end = domain.upper

    def at(name: str, otherwise: Expr) -> Expr:
        return _if(_both(domain.guard, Op.LT, var(name), end), base, otherwise)

    return replace(
        second,
        lower=at(outer, second.lower),
        live_lower=at(f"{outer}_first", second.live_lower),
        full_lower=at(f"{outer}_last", second.full_lower),
    )


def _reach_up(first: Interval, second: Interval, prover: Prover) -> Interval | None:
    """`second` to the upper end of `first` where its own is at least the lower end of `first`."""
    outer, top, upper = prover.outer, first.upper, second.upper
    if _is_fixed(first, second) or outer in top.variables or outer not in upper.variables:
        return None
    if not prover.timeless.always(apply(Op.GE, top, upper)):
        return None
    bottoms = [
        x
        for x in operands(Op.MAX, first.lower)
        if not prover.timeless.always(apply(Op.LE, x, second.lower))
    ]
    domain = _rows_where([apply(Op.GE, upper, x) for x in bottoms], prover)
    if domain is None or domain.upper is not TOP:
        return None
    start = domain.lower

    def at(name: str, otherwise: Expr) -> Expr:
        return _if(_both(domain.guard, Op.GE, var(name), start), top, otherwise)

    return replace(
        second,
        upper=at(outer, second.upper),
        live_upper=at(f"{outer}_last", second.live_upper),
        full_upper=at(f"{outer}_first", second.full_upper),
    )


def _is_fixed(first: Interval, second: Interval) -> bool:
    """Has the second one bounds by rows, or either a sieve?"""
    return second.by_rows or first.sieve is not None or second.sieve is not None


def _rows_where(conditions: list[Expr], prover: Prover) -> Piece | None:
    """The outer positions where all hold, if they are one range for each b and h."""
    condition = reduce(partial(apply, Op.AND), conditions, TRUE)
    try:
        found = Solver(prover.outer, prover).solve(condition)
    except Declined:
        return None
    if len(found) != 1:
        return None
    piece = found[0]
    used = piece.lower.variables | piece.upper.variables | piece.guard.variables
    return None if prover.outer in used else piece
