"""The closed form of a dilated band: every s-th position of an interval, counted along q - kv.

    d_least <= q - kv <= d_most and (q - kv) % s == r

For each row the allowed positions are lower, lower + s, ... below upper. A tile holds all the
differences q - kv between those of two of its corners, and they are at least s in number. So a tile
that meets the band is live: it has a multiple, or else an end of the band, and both ends are moved
inwards to differences that count. None is full. Other conditions are declined or left to
`tile_bounds.py`; strides that a tile does not reach leave gaps between tiles, and take a table.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.analysis.affine import Linear, LinearForms
from flexdsl.analysis.closed_form import APART, BOTTOM, TOP, ClosedForm, Declined, Interval
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.solve import Piece, Solver, operands
from flexdsl.analysis.tile_bounds import derive
from flexdsl.analysis.truth import flatten
from flexdsl.analysis.values import MAX_DEPTH, is_deep, substitute
from flexdsl.ir import Expr, Op, apply, const, var


@dataclass(frozen=True, slots=True)
class _Sieve:
    """The inner positions that are `anchor`, an expression of the outer one, modulo `stride`."""

    stride: int
    anchor: Expr

    def next_from(self, lower: Expr) -> Expr:
        """The first one at or after `lower`."""
        forms = LinearForms()
        return apply(Op.ADD, lower, self._rest(forms.difference(self.anchor, lower)))

    def end_below(self, upper: Expr) -> Expr:
        """The number after the last one below `upper`."""
        forms = LinearForms()
        last = apply(Op.SUB, upper, const(1))
        return apply(Op.SUB, upper, self._rest(forms.difference(last, self.anchor)))

    def _rest(self, distance: Linear) -> Expr:
        return apply(Op.MOD, distance.to_expr(), const(self.stride))


def derive_form(mask: Expr, inner: str, prover: Prover) -> ClosedForm:
    """The closed form of any mask, exact for every interval not `by_rows`. Raises `Declined`."""
    if is_deep(mask):
        raise Declined(f"more than {MAX_DEPTH} operations are nested in it", mask)
    return _dilated(mask, inner, prover) or derive(mask, inner, prover)


def _dilated(mask: Expr, inner: str, prover: Prover) -> ClosedForm | None:
    """The closed form of a mask with one condition on (q - kv) % s; None where it has none.

    Raises `Declined` where the rest is no band, or a tile may have too few differences.
    """
    parts = flatten(mask) if mask.op is Op.AND else [mask]
    found = [(part, sieve) for part in parts if (sieve := _sieve(part, inner, prover.outer))]
    if len(found) != 1:
        return None
    condition, sieve = found[0]
    if _least_differences(prover.grid) < sieve.stride:
        few = f"a tile may have less than {sieve.stride} differences q - kv"
        raise Declined(few + APART, condition)
    rest = const(True)
    for part in parts:
        if part is not condition:
            rest = apply(Op.AND, rest, part)
    pieces = Solver(inner, prover).solve_mask(rest)
    if len(pieces) > 1:
        raise Declined(f"{condition!r} is asked beside more than one interval", condition)
    return ClosedForm(inner, tuple(_interval(p, sieve, prover, condition) for p in pieces))


def _least_differences(grid: Grid) -> int:
    """Differences q - kv of the smallest tile, the last one of both axes."""
    rows = (grid.q_len - 1) % grid.tile[0] + 1
    columns = (grid.kv_len - 1) % grid.tile[1] + 1
    return rows + columns - 1


def _sieve(part: Expr, inner: str, outer: str) -> _Sieve | None:
    """The sieve that a condition is: (q - kv) % s == r, or q % s == kv % s."""
    if part.op is not Op.EQ:
        return None
    forms = LinearForms()
    for x, y in (part.args, part.args[::-1]):
        if x.op is not Op.MOD or not isinstance(stride := x.args[1].attribute, int) or stride < 2:
            continue
        if y.op is Op.CONST and isinstance(y.attribute, int) and 0 <= y.attribute < stride:
            form = forms.difference(x.args[0], y)
        elif y.op is Op.MOD and y.args[1] is x.args[1]:
            form = forms.difference(x.args[0], y.args[0])
        else:
            continue
        sign = form.coefficient(var(inner))
        rest = form.without(var(inner))
        others = rest.without(var(outer))
        if abs(sign) == 1 and form.coefficient(var(outer)) == -sign and not others.terms:
            return _Sieve(stride, rest.times(-sign).to_expr())
    return None


def _interval(piece: Piece, sieve: _Sieve, prover: Prover, node: Expr) -> Interval:
    """The sieved interval of a band whose ends move with the outer position."""
    outer = var(prover.outer)
    if outer.attribute in piece.guard.variables:
        raise Declined(f"{piece.guard!r} tells rows apart", node)
    low = _moving(Op.MAX, piece.lower, outer, node)
    high = _moving(Op.MIN, piece.upper, outer, node)
    live_lower = BOTTOM if low is None else sieve.next_from(low)
    live_upper = TOP if high is None else sieve.end_below(high)
    for end in (live_lower, live_upper):
        if not prover.fits(end):
            raise Declined(f"its bound {end!r} may not fit in 32 bits", node)
    first, last = var(f"{prover.outer}_first"), var(f"{prover.outer}_last")

    guard = piece.guard
    if low is not None and high is not None:
        # Between two differences that count there may be none: in no row then.
        width = LinearForms().difference(live_upper, live_lower).to_expr()
        guard = apply(Op.AND, guard, apply(Op.GT, width, BOTTOM))

    def guarded(end: Expr) -> Expr:
        return apply(Op.WHERE, guard, end, BOTTOM)

    return Interval(
        lower=sieve.next_from(BOTTOM) if low is None else live_lower,
        upper=guarded(live_upper),
        live_lower=apply(Op.MAX, BOTTOM, substitute(live_lower, {outer: first})),
        full_lower=BOTTOM,
        full_upper=BOTTOM,
        live_upper=guarded(substitute(live_upper, {outer: last})),
        stride=sieve.stride,
    )


def _moving(op: Op, end: Expr, outer: Expr, node: Expr) -> Expr | None:
    """The one operand of an end that is the outer position and a number; None for no bound."""
    moving = [x for x in operands(op, end) if x not in (BOTTOM, TOP)]
    if not moving:
        return None
    form = LinearForms().of(moving[0])
    others = form.without(outer)
    still = all(str(outer.attribute) not in atom.variables for atom, _ in others.terms)
    if len(moving) > 1 or form.coefficient(outer) != 1 or not still:
        raise Declined(f"{end!r} is no number of tokens before or after", node)
    return moving[0]
