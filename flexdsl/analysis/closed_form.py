"""Closed form of a mask: the allowed inner positions of an outer one as a union of few intervals.

Data only: ends are expressions of the outer variable, b, h and parameters, and may load captures
that no inner position indexes. `solve.py` finds intervals, `tile_bounds.py` the bounds of tiles.

A closed form is right whatever captured tensors come to hold, so that a CUDA graph may replay it
after they changed in place. Packed documents have one by their starts and ends, which every row
loads for itself; `ids[q] == ids[kv]` has none, since its ends would have to be searched for, and
a search trusts that ids are sorted, which the next replay need not keep.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.analysis.values import substitute
from flexdsl.ir import Expr, Op, apply, const, print_expr, var

BOTTOM = const(0)  # "no bound below": positions are natural numbers
TOP = const(2**31 - 1)  # "no bound above"
TRUE = const(True)
MAX_INTERVALS = 4


@dataclass(frozen=True, slots=True)
class Sieve:
    """The inner positions x with (x - anchor) % period < width: stretches that come periodically.

    Attributes:
        period: positions from the beginning of a stretch to the next one's.
        width: positions of a stretch, of b and h and parameters; 0 < width < period.
        anchor: where a stretch begins, an expression of the outer position, b and h.
        step: how far the anchor moves from an outer position to the next, at most `width` to either
            side: what all rows of a tile have of a stretch is then without gaps.
        leaves_gaps: a tile between two live ones may have no such position. Where not, each tile
            between the bounds of the interval is live, and none is full.
    """

    period: int
    width: Expr
    anchor: Expr
    step: int = 0
    leaves_gaps: bool = True

    def first(self, outer: str) -> Expr:
        """The least position at which a row of a tile begins the stretch of `anchor`."""
        row = var(f"{outer}_first" if self.step >= 0 else f"{outer}_last")
        return substitute(self.anchor, {var(outer): row})

    def reach(self, outer: str) -> Expr:
        """Positions from there to where the last row of a tile ends it: `width` at least."""
        rows = apply(Op.SUB, var(f"{outer}_last"), var(f"{outer}_first"))
        return apply(Op.ADD, apply(Op.MUL, rows, const(abs(self.step))), self.width)

    def __str__(self) -> str:
        anchor = print_expr(self.anchor)
        if self.width == const(1):
            return f"in steps of {self.period} through {anchor}"
        width = print_expr(self.width)
        return f"in stretches of {width} every {self.period}, one from {anchor} on"


@dataclass(frozen=True, slots=True)
class Interval:
    """Inner positions [lower, upper) of an outer position; empty where upper <= lower.

    The other four are over the outer positions first..last (inclusive) of a tile, as expressions
    of `q_first` and `q_last` (or `kv_first`, `kv_last`): live_lower is the least lower end of a
    row that is not empty, full_lower the largest, full_upper the least upper end, live_upper the
    largest. No lower end is negative. No pair of the tile is in [lower, upper) of any row unless
    live_lower < min(live_upper, length).

    With a sieve only those of the positions are allowed that it lets through. A tile is live if it
    has a position between live_lower and live_upper that the sieve of some row lets through.

    Where the four are `by_rows`, they are expressions of a single outer position, and it is for the
    reader to take the least and the largest over the rows of a tile.
    """

    lower: Expr
    upper: Expr
    live_lower: Expr
    full_lower: Expr
    full_upper: Expr
    live_upper: Expr
    sieve: Sieve | None = None

    @property
    def ends(self) -> tuple[Expr, ...]:
        """All six, in the order of the fields."""
        outer = self.lower, self.upper, self.live_lower, self.full_lower
        return *outer, self.full_upper, self.live_upper

    @property
    def leaves_gaps(self) -> bool:
        """May a tile between the bounds have no allowed position, by a sieve?"""
        return self.sieve is not None and self.sieve.leaves_gaps

    @property
    def by_rows(self) -> bool:
        """Are the bounds of a tile to be found from those of its rows?"""
        return not {"q", "kv"}.isdisjoint(self.full_lower.variables | self.full_upper.variables)


def interval_by_rows(lower: Expr, upper: Expr) -> Interval:
    """The interval whose bounds of tiles are found from its rows; some end has the outer variable.

    A row that is empty has no lower end to be the least, and no upper end to be the largest.
    """
    some = apply(Op.LT, lower, upper)
    return Interval(
        lower,
        upper,
        live_lower=apply(Op.WHERE, some, lower, TOP),
        full_lower=lower,
        full_upper=upper,
        live_upper=apply(Op.WHERE, some, upper, BOTTOM),
    )


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """A union of intervals, which may overlap.

    Attributes:
        inner: the variable that the intervals are of: "kv", or "q" of a transposed plan.
        intervals: at most four, at most one of them with a sieve; none where no pair is allowed.
    """

    inner: str
    intervals: tuple[Interval, ...]

    @property
    def sieved(self) -> Interval | None:
        """The interval whose tiles lie apart."""
        return next((i for i in self.intervals if i.leaves_gaps), None)

    @property
    def plain(self) -> tuple[Interval, ...]:
        """The others, whose live tiles lie side by side."""
        return tuple(i for i in self.intervals if not i.leaves_gaps)

    @property
    def by_rows(self) -> bool:
        """Are bounds of tiles computed from those of their rows, as with captured ends?"""
        return any(interval.by_rows for interval in self.intervals)


class Declined(Exception):
    """There is no closed form, or it would be less exact than a table. Never reaches a user.

    Attributes:
        reason: why, in words.
        node: the part of the mask that stands in the way.
    """

    def __init__(self, reason: str, node: Expr) -> None:
        super().__init__(reason)
        self.reason, self.node = reason, node
