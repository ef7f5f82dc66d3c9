"""Bounds of whole tiles from the ends of intervals, and the proof that they are exact.

An end that never decreases (or never increases) along the outer variable has its extremes at the
first and last row of a tile. The hull of a tile's rows is their union if the ends move apart or
stay, or if they move together and each row touches the next one. Whatever is not shown to be so is
declined: a table is then more exact. Other ends, captured ones too, are taken row by row: bounds
are then right by themselves. Whether they are exact is shown by `anchors.py`, or seen by
`closed_exact.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flexdsl.analysis.affine import Linear, LinearForms, divisor_of, without_quotients
from flexdsl.analysis.closed_form import (
    BOTTOM,
    MAX_INTERVALS,
    TOP,
    TRUE,
    ClosedForm,
    Declined,
    Interval,
    interval_by_rows,
)
from flexdsl.analysis.overlay import Part, overlay
from flexdsl.analysis.periods import unrolled
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.solve import Piece, Solver, operands, without_remainders
from flexdsl.analysis.values import substitute
from flexdsl.ir import Expr, Op, Type, apply, const, var, walk

GROWING = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.NEG, Op.SHL})


def derive(mask: Expr, inner: str, prover: Prover) -> ClosedForm:
    """The closed form of a mask, exact for every interval not `by_rows`. Raises `Declined`.

    Whether a tile can be full in the union of two intervals only is not looked at here.
    """
    pieces = Solver(inner, prover).solve_mask(unrolled(mask, prover))
    intervals = overlay(
        [i for piece in pieces for i in parts_of(piece, mask, prover)], prover.outer
    )
    return form_of(intervals, inner, mask)


def parts_of(piece: Piece, mask: Expr, prover: Prover) -> list[Part]:
    """A piece with its bounds of tiles, whatever its residue lets through. Raises `Declined`."""
    return _Bounder(prover, mask).intervals(piece)


def form_of(intervals: list[Interval], inner: str, mask: Expr) -> ClosedForm:
    """The closed form of intervals, if there are few. Raises `Declined`."""
    if len(intervals) > MAX_INTERVALS:
        raise Declined(f"it has {len(intervals)} intervals, and {MAX_INTERVALS} is the most", mask)
    return ClosedForm(inner, tuple(intervals))


def direction(end: Expr, prover: Prover) -> int | None:
    """Of an end along the outer variable: 1 up, -1 down, 0 constant; None if that is not known."""
    found = _Bounder(prover, end).end(end)
    return None if found is None else found.direction


@dataclass(frozen=True)
class _End:
    """An end and its direction along the outer variable: 1 up, -1 down, 0 constant."""

    expr: Expr
    direction: int

    def at(self, position: Expr, outer: Expr) -> Expr:
        """The end at another outer position."""
        return substitute(self.expr, {outer: position})


class _Bounder:
    def __init__(self, prover: Prover, mask: Expr) -> None:
        self.prover, self.mask = prover, mask
        self.outer = var(prover.outer)
        self.first, self.last = var(f"{prover.outer}_first"), var(f"{prover.outer}_last")
        self.forms = LinearForms()

    def intervals(self, piece: Piece) -> list[Part]:
        """One interval for each range of outer positions in which the guard holds."""
        self._require_small(piece.lower, piece.upper)
        lower, upper = self.end(piece.lower), self.end(piece.upper)
        domains = self._domains(piece.guard)
        if lower is None or upper is None or domains is None:
            row_upper = apply(Op.WHERE, piece.guard, piece.upper, BOTTOM)
            return [Part(interval_by_rows(piece.lower, row_upper), Piece(BOTTOM, TOP))]
        self._require_small(lower.expr, upper.expr)
        some = self._contiguous_where(lower, upper)
        domains = [replace(d, guard=apply(Op.AND, d.guard, some)) for d in domains]
        return [Part(self._interval(lower, upper, domain), domain) for domain in domains]

    def _domains(self, guard: Expr) -> list[Piece] | None:
        """The ranges of outer positions in which a guard holds; None where nothing solves it."""
        if self.prover.outer not in guard.variables:
            return [Piece(BOTTOM, TOP, guard)]
        try:
            domains = Solver(self.prover.outer, self.prover).solve(guard)
        except Declined:
            return None
        bounds = [end for d in domains for end in (d.lower, d.upper)]
        return None if any(self.prover.outer in end.variables for end in bounds) else domains

    def _interval(self, lower: _End, upper: _End, domain: Piece) -> Interval:
        """The bounds where only rows in `domain` count, and others are empty."""
        first = self.first if domain.lower is BOTTOM else apply(Op.MAX, self.first, domain.lower)
        last = self.last
        inside = TRUE
        everywhere = TRUE
        if domain.lower is not BOTTOM:
            inside = apply(Op.GE, self.outer, domain.lower)
            everywhere = apply(Op.GE, self.first, domain.lower)
        if domain.upper is not TOP:
            last = apply(Op.MIN, last, apply(Op.SUB, domain.upper, const(1)))
            inside = apply(Op.AND, inside, apply(Op.LT, self.outer, domain.upper))
            below = apply(Op.LT, self.last, domain.upper)
            everywhere = apply(Op.AND, everywhere, below)
        somewhere = TRUE if inside is TRUE else apply(Op.LE, first, last)

        def guarded(condition: Expr, end: Expr) -> Expr:
            return apply(Op.WHERE, apply(Op.AND, domain.guard, condition), end, BOTTOM)

        low_first, low_last = (first, last) if lower.direction >= 0 else (last, first)
        up_first, up_last = (first, last) if upper.direction >= 0 else (last, first)
        raw = {first: self.first, last: self.last}
        return Interval(
            lower=lower.expr,
            upper=guarded(inside, upper.expr),
            live_lower=lower.at(low_first, self.outer),
            full_lower=lower.at(raw[low_last], self.outer),
            full_upper=guarded(everywhere, upper.at(raw[up_first], self.outer)),
            live_upper=guarded(somewhere, upper.at(up_last, self.outer)),
        )

    def end(self, expr: Expr) -> _End | None:
        """An end with its direction; None where it has none, or one that nothing proves."""
        for end in (expr, self._expanded(expr)):
            direction = self._direction(end)
            if direction is not None:
                return _End(end, direction)
        return None

    def _expanded(self, expr: Expr) -> Expr:
        """Without remainders: q - q % T becomes T * (q // T), which never decreases."""
        if expr.op in (Op.MIN, Op.MAX):
            return apply(expr.op, *(self._expanded(a) for a in expr.args))
        return without_remainders(self.forms.of(expr), self.forms, lambda x: True).to_expr()

    def _direction(self, expr: Expr) -> int | None:
        """1 or -1 if the value never decreases or never increases, 0 if it is constant."""
        if self.prover.outer not in expr.variables:
            return 0
        form = self.forms.of(expr)
        if form.terms != ((expr, 1),):
            directions = [self._scaled(self._direction(a), c) for a, c in form.terms]
            return _common(directions)
        match expr.op:
            case Op.VAR:
                return 1
            case Op.MIN | Op.MAX:
                return _common([self._direction(a) for a in expr.args])
            case Op.WHERE if self.prover.outer not in expr.args[0].variables:
                return _common([self._direction(a) for a in expr.args[1:]])
            case Op.FLOORDIV | Op.SHR if divisor_of(expr) is not None:
                return self._direction(expr.args[0])
            case Op.FLOORDIV if self._sign(expr.args[1]) == 1:
                return self._direction(expr.args[0])
            case Op.MUL:
                return self._product(expr)
            case _:
                return None

    def _product(self, expr: Expr) -> int | None:
        for x, y in (expr.args, expr.args[::-1]):
            if self.prover.outer not in y.variables:
                return self._scaled(self._direction(x), self._sign(y))
        return None

    def _sign(self, expr: Expr) -> int | None:
        """1 or -1 where the value is proven positive or negative."""
        if self.prover.outer in expr.variables or expr.type is not Type.INDEX:
            return None
        if self.prover.timeless.always(apply(Op.GT, expr, BOTTOM)):
            return 1
        return -1 if self.prover.timeless.always(apply(Op.LT, expr, BOTTOM)) else None

    def _scaled(self, direction: int | None, factor: int | None) -> int | None:
        if direction is None or factor is None:
            return None
        return direction if factor > 0 else -direction

    def _require_small(self, *ends: Expr) -> None:
        """A window of 2**31 - 1 is a fine "no window", but kv + window is then no number."""
        growing = [n for n in walk(*ends) if n.op in GROWING and n.type is Type.INDEX]
        if not self.prover.fits(*growing):
            node = next(n for n in growing if not self.prover.fits(n))
            raise Declined(f"its bound {node!r} may not fit in 32 bits", self.mask)

    def _contiguous_where(self, lower: _End, upper: _End) -> Expr:
        """Where ends that move together have each row touch the next, so that none is inside out.

        Operands that do not move only cut all rows alike, so they do not count. Where it does not
        hold no row has anything at all. Raises `Declined`.
        """
        if lower.direction * upper.direction != 1:
            return TRUE
        low = self._moving(Op.MAX, lower.expr)
        high = self._moving(Op.MIN, upper.expr)
        following = apply(Op.ADD, self.outer, const(1))
        if lower.direction == 1:
            ends = substitute(low, {self.outer: following}), high
        else:
            ends = low, substitute(high, {self.outer: following})
        if self.prover.always(apply(Op.LE, *ends)):
            return TRUE
        some = self._where_some((low, high), ends)
        if some is None:
            raise Declined(f"[{low!r}, {high!r}) may leave gaps between rows", self.mask)
        self._require_small(some)
        return some

    def _where_some(self, row: tuple[Expr, Expr], both: tuple[Expr, Expr]) -> Expr | None:
        """What b and h decide, and without which no row has anything; None where rows need more.

        Args:
            row: lower and upper end of a row.
            both: the same where a row touches the next one if they are in order.
        """
        width, still = self._parted(*row)
        overlap, same = self._parted(*both)
        if width is None or overlap is None or not still or still != same:
            return None
        # A row has something where still > -widest: then it is `least` or more.
        step = math.gcd(*still.values())
        least = -((width[1] - 1) // step) * step
        touch = overlap[0] + least >= 0
        staying = Linear(tuple(still.items()), -least)
        return apply(Op.GE, staying.to_expr(), BOTTOM) if touch else None

    def _parted(self, low: Expr, high: Expr) -> tuple[tuple[int, int] | None, dict[Expr, int]]:
        """The range of high - low (or a multiple) without the terms that do not move; and those."""
        form, _ = without_quotients(self.forms.difference(high, low), self.forms)
        still = {x: c for x, c in form.terms if self.prover.outer not in x.variables}
        rest = form.plus(Linear(tuple(still.items()), 0), -1)
        return self.prover.range_of(rest.to_expr()), still

    def _moving(self, op: Op, expr: Expr) -> Expr:
        parts = [p for p in operands(op, expr) if self.prover.outer in p.variables]
        first, *rest = parts
        for part in rest:
            first = apply(op, first, part)
        return first


def _common(directions: list[int | None]) -> int | None:
    """The one direction of all that move; None where they differ."""
    moving = {d for d in directions if d != 0}
    if not moving:
        return 0
    return moving.pop() if len(moving) == 1 else None
