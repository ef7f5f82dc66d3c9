"""Two intervals of a closed form made one, or one made to reach over the other, by a condition.

The union stays the same at every outer position. It is done where bounds of tiles stay exact, so
that a kernel has fewer loops and a tile that is full in both together is full in one.
"""

from __future__ import annotations

from dataclasses import replace

from flexdsl.analysis.closed_form import (
    BOTTOM,
    TOP,
    ClosedForm,
    Declined,
    Interval,
    Solver,
)
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.values import substitute
from flexdsl.ir import Expr, Op, apply, var


def overlay(intervals: list[Interval], outer: str) -> list[Interval]:
    """Intervals without those that hold everything for the first outer positions only.

    The global tokens of a transposed plan: [kv, no bound) for kv < 4 beside [kv, kv + window).
    """
    for cover in intervals:
        end = _unbounded_before(cover, outer)
        for other in intervals:
            if end is None or other is cover:
                continue
            united = _united_above(cover, other, end, outer)
            united = united or _united_below(cover, other, end, outer)
            if united is not None:
                kept = [united if i is other else i for i in intervals if i is not cover]
                return overlay(kept, outer)
    return intervals


def _unbounded_before(interval: Interval, outer: str) -> Expr | None:
    """E where the upper end is `no bound if outer < E else 0`, and E is free of outer."""
    upper = interval.upper
    if upper.op is not Op.WHERE or upper.args[1:] != (TOP, BOTTOM):
        return None
    condition = upper.args[0]
    if condition.op is not Op.LT or condition.args[0] is not var(outer):
        return None
    return None if outer in condition.args[1].variables else condition.args[1]


def _chosen(name: str, end: Expr, before: Expr, after: Expr) -> Expr:
    """`before` where the position `name` is before `end`, else `after`."""
    return apply(Op.WHERE, apply(Op.LT, var(name), end), before, after)


def _at(expr: Expr, outer: str, position: Expr) -> Expr:
    return substitute(expr, {var(outer): position})


def _united_above(cover: Interval, other: Interval, end: Expr, outer: str) -> Interval | None:
    """Equal lower ends that do not fall, and an upper end that does not fall."""
    first, last = f"{outer}_first", f"{outer}_last"
    rising = _at(other.upper, outer, var(first)) is other.full_upper
    if cover.lower is not other.lower or not rising:
        return None
    if other.live_lower is not _at(other.lower, outer, var(first)):
        return None
    later = _at(other.upper, outer, apply(Op.MAX, var(first), end))
    return replace(
        other,
        upper=_chosen(outer, end, TOP, other.upper),
        full_upper=_chosen(last, end, TOP, later),
        live_upper=_chosen(first, end, TOP, other.live_upper),
    )


def _united_below(cover: Interval, other: Interval, end: Expr, outer: str) -> Interval | None:
    """No bound above in either, and a lower end that does not fall."""
    first, last = f"{outer}_first", f"{outer}_last"
    rising = _at(other.lower, outer, var(last)) is other.full_lower
    if cover.lower is not BOTTOM or other.upper is not TOP or not rising:
        return None
    return replace(
        other,
        lower=_chosen(outer, end, BOTTOM, other.lower),
        live_lower=_chosen(first, end, BOTTOM, other.live_lower),
        full_lower=_chosen(last, end, BOTTOM, other.full_lower),
    )


def absorb(form: ClosedForm, prover: Prover) -> ClosedForm:
    """The same union, where an interval reaches down over one before it wherever the two touch.

    A tile that is full in the union of both is then full in the second alone. It is done for a
    first interval whose lower end is constant and a second one whose lower end rises.
    """
    intervals = list(form.intervals)
    for k, second in enumerate(form.intervals):
        for first in form.intervals:
            if first is not second:
                reached = _reach(first, second, prover)
                intervals[k] = reached if reached is not None else intervals[k]
    return replace(form, intervals=tuple(intervals))


def _reach(first: Interval, second: Interval, prover: Prover) -> Interval | None:
    outer = prover.outer
    base, lower = first.lower, second.lower
    names = {f"{outer}_first", f"{outer}_last", outer}
    if outer in base.variables or outer not in lower.variables:
        return None
    if not prover.always(apply(Op.LE, base, lower)):
        return None
    try:
        domain = Solver(outer, prover).solve(apply(Op.LE, lower, first.upper))
    except Declined:
        return None
    if len(domain) != 1 or domain[0].lower is not BOTTOM or not prover.always(domain[0].guard):
        return None
    end = domain[0].upper
    if names & end.variables:
        return None

    def at(name: str, otherwise: Expr) -> Expr:
        return apply(Op.WHERE, apply(Op.LT, var(name), end), base, otherwise)

    return replace(
        second,
        lower=at(outer, second.lower),
        live_lower=at(f"{outer}_first", second.live_lower),
        full_lower=at(f"{outer}_last", second.full_lower),
    )
