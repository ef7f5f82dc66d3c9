"""Closed forms with a sieve: dilated bands, strides of one token or of blocks, also by head.

    q >= kv and (q - kv) % s == 0
    q >= kv and (q // B - kv // B < local or (kv // B + h) % s == 0)

Live tiles may lie apart. With stretches that stay where they are from row to row, a tile of rows
has what the hull of its rows (`tile_bounds.py`) has of them. With stretches that move, as in a band
of q - kv, all rows have the same ones if both ends move along, or stay: what they have of one
stretch is without gaps then. A form has one such interval at most, beside those without a sieve.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from flexdsl.analysis.affine import LinearForms
from flexdsl.analysis.closed_form import BOTTOM, TOP, ClosedForm, Declined, Interval, Sieve
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.overlay import overlay
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.residues import has_residue, sieve_of
from flexdsl.analysis.solve import Piece, Solver, operands
from flexdsl.analysis.tile_bounds import derive, form_of, parts_of
from flexdsl.analysis.values import MAX_DEPTH, is_deep, substitute
from flexdsl.ir import Expr, Op, apply, const, var


def derive_form(mask: Expr, inner: str, prover: Prover) -> ClosedForm:
    """The closed form of any mask, exact for every interval not `by_rows`. Raises `Declined`."""
    *earlier, last = ways(mask, inner, prover)
    for way in earlier:
        with suppress(Declined):
            return way()
    return last()


def ways(mask: Expr, inner: str, prover: Prover) -> list[Callable[[], ClosedForm]]:
    """How a closed form may be found, the first way that finds one being the best.

    Each call raises `Declined` where it finds none.
    """
    found = [partial(_plain_form, mask, inner, prover)]
    if not is_deep(mask) and has_residue(mask, inner, prover):
        found.append(partial(_sieved_form, mask, inner, prover))
    return [*found]


def _plain_form(mask: Expr, inner: str, prover: Prover) -> ClosedForm:
    """The closed form without a sieve. Raises `Declined`."""
    if is_deep(mask):
        raise Declined(f"more than {MAX_DEPTH} operations are nested in it", mask)
    return derive(mask, inner, prover)


def _sieved_form(mask: Expr, inner: str, prover: Prover) -> ClosedForm:
    """The closed form of a mask with a condition on a remainder of `inner`. Raises `Declined`."""
    pieces = Solver(inner, prover, residues=True).solve_mask(mask)
    sieved = [p for p in pieces if p.residue is not None]
    if len(sieved) > 1:
        _, second, *_ = (p.residue.node for p in sieved if p.residue is not None)
        raise Declined(f"{second!r} is asked of a second interval, or is a second stride", second)
    plain = (p for p in pieces if p.residue is None)
    parts = [part for piece in plain for part in parts_of(piece, mask, prover)]
    intervals = overlay(parts, prover.outer)
    for piece in sieved:
        found = _sieved(piece, inner, mask, prover, alone=not intervals)
        intervals = [*intervals, *found]
    return form_of(intervals, inner, mask)


def _sieved(piece: Piece, inner: str, mask: Expr, prover: Prover, alone: bool) -> list[Interval]:
    """The interval of a piece with a residue; none where it has no row. Raises `Declined`.

    Args:
        alone: no other interval may have a tile in common with it.
    """
    assert piece.residue is not None
    sieve, node = sieve_of(piece.residue, inner, prover), piece.residue.node
    if sieve.step:
        return [_Band(piece, sieve, prover).interval(alone)]
    found = [part.interval for part in parts_of(piece, mask, prover)]
    if any(interval.by_rows for interval in found) or len(found) > 1:
        raise Declined(f"{node!r} is asked beside bounds that each row has for itself", node)
    return [replace(interval, sieve=sieve) for interval in found]


class _Band:
    """A piece whose stretches move from row to row, and both its ends with them, or not at all."""

    def __init__(self, piece: Piece, sieve: Sieve, prover: Prover) -> None:
        assert piece.residue is not None
        self.piece, self.sieve, self.prover = piece, sieve, prover
        self.node = piece.residue.node
        self.outer = var(prover.outer)
        self._more = apply(Op.SUB, sieve.width, const(1))  # positions of a stretch after its first
        if prover.outer in piece.guard.variables:
            raise Declined(f"{piece.guard!r} tells rows apart", self.node)

    def interval(self, alone: bool) -> Interval:
        """Its ends, moved inwards to positions that the sieve lets through."""
        low, low_still = self._ends(Op.MAX, self.piece.lower)
        high, high_still = self._ends(Op.MIN, self.piece.upper)
        inward_low = [self._next_from(end) for end in low]
        inward_high = [self._end_below(end) for end in high]
        if not self.prover.fits(*inward_low, *inward_high):
            raise Declined("its bounds may not fit in 32 bits", self.node)
        guard = self.piece.guard
        for a in inward_low:
            for b in inward_high:
                # Between two ends that move along there may be nothing: in no row then.
                width = LinearForms().difference(b, a).to_expr()
                guard = apply(Op.AND, guard, apply(Op.GT, width, BOTTOM))

        def guarded(end: Expr) -> Expr:
            return apply(Op.WHERE, guard, end, BOTTOM)

        least, most = ("first", "last") if self.sieve.step > 0 else ("last", "first")
        still = {*low_still, *high_still} <= {BOTTOM, TOP}
        return Interval(
            lower=self.piece.lower,
            upper=guarded(self.piece.upper),
            live_lower=self._extreme(Op.MAX, [*low_still, *inward_low], least),
            full_lower=self._extreme(Op.MAX, [*low_still, *low], most),
            full_upper=guarded(self._extreme(Op.MIN, [*high_still, *high], least)),
            live_upper=guarded(self._extreme(Op.MIN, [*high_still, *inward_high], most)),
            sieve=replace(self.sieve, leaves_gaps=not (alone and still and self._is_close())),
        )

    def _is_close(self) -> bool:
        """Has each tile a position of some stretch, wherever it lies, and is none full?"""
        grid: Grid = self.prover.grid
        rows, columns = (
            (n - 1) % size + 1 for n, size in zip((grid.q_len, grid.kv_len), grid.tile, strict=True)
        )
        if self.prover.outer == "kv":
            rows, columns = columns, rows
        moved, width = abs(self.sieve.step) * (rows - 1), self.sieve.width.attribute
        if not isinstance(width, int):
            return False
        return self.sieve.period - width - moved < columns and width - moved < columns

    def _ends(self, op: Op, end: Expr) -> tuple[list[Expr], list[Expr]]:
        """Of the operands of an end, the one that moves with the stretches, and those that stay."""
        moving, still = list[Expr](), list[Expr]()
        for x in operands(op, end):
            form = LinearForms().of(x)
            if self.prover.outer not in x.variables:
                still.append(x)
                continue
            others = form.without(self.outer)
            alike = form.coefficient(self.outer) == self.sieve.step
            if not alike or any(self.prover.outer in t.variables for t, _ in others.terms):
                raise Declined(f"{x!r} does not move as {self.node!r} does", self.node)
            moving.append(x)
        if len(moving) > 1:
            raise Declined(f"{end!r} is the nearest of several ends", self.node)
        return moving, still

    def _next_from(self, low: Expr) -> Expr:
        """The first position at or after `low` that passes."""
        last = apply(Op.ADD, self.sieve.anchor, self._more)
        return apply(Op.ADD, low, self._missing(last, low))

    def _end_below(self, high: Expr) -> Expr:
        """The position after the last one below `high` that passes."""
        last = apply(Op.SUB, high, const(1))
        return apply(Op.SUB, high, self._missing(last, self.sieve.anchor))

    def _missing(self, to: Expr, start: Expr) -> Expr:
        """How far it is from `start` to `to`, modulo the period, beyond a stretch."""
        distance = LinearForms().difference(to, start).to_expr()
        rest = apply(Op.MOD, distance, const(self.sieve.period))
        if self._more == BOTTOM:
            return rest
        return apply(Op.MAX, apply(Op.SUB, rest, self._more), BOTTOM)

    def _extreme(self, op: Op, ends: list[Expr], row: str) -> Expr:
        """The one end over all rows of a tile: that of its first or last row."""
        position = var(f"{self.prover.outer}_{row}")
        first, *rest = (substitute(end, {self.outer: position}) for end in ends)
        for end in rest:
            first = apply(op, first, end)
        return first
