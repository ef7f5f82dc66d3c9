"""Runs of tiles of an interval with a sieve, by arithmetic on its stretches.

Everything is in arrays over outer tiles. What a tile of rows has of one stretch is [first + n *
period, ... + reach), and what all of its rows have in common of it begins `reach - width` later and
ends as much earlier. Nothing is evaluated here; `closed_runs.py` does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.grid import numbered

Array = NDArray[Any]
Runs = tuple[Array, Array, Array]  # outer tile, by its place in the arrays; start and stop


@dataclass(frozen=True, eq=False)
class Stretches:
    """The stretches of outer tiles, and where they count. All arrays [n], of inner indices.

    Attributes:
        period: as of the `Sieve`.
        width: of a stretch in a single row.
        first, reach: what some row of the tile has of a stretch: [first, first + reach).
        live: least lower and largest upper end of the rows, cut to the axis.
        full: largest lower and least upper end, likewise.
        length, tile: of the inner axis.
    """

    period: int
    width: Array
    first: Array
    reach: Array
    live: tuple[Array, Array]
    full: tuple[Array, Array]
    length: int
    tile: int

    def most(self) -> int:
        """At most so many stretches, or tiles, does an outer tile have."""
        return -(-self.length // max(self.period, self.tile)) + 2

    def live_runs(self) -> Iterator[Runs]:
        """Where tiles are live; no two runs of an outer tile share a tile."""
        low, high = self.live
        dense = self.period - self.reach < self.tile
        yield self._between(np.flatnonzero(dense & (low < high)))
        yield self._apart(np.flatnonzero(~dense & (low < high)), self.first, self.reach, self.live)

    def _between(self, of: Array) -> Runs:
        """All tiles from the first position to the last one: a gap has no room for a tile."""
        low, high, first, reach = (x[of] for x in (*self.live, self.first, self.reach))
        rest = (low - first) % self.period
        begin = low + np.where(rest < reach, 0, self.period - rest)
        rest = (high - 1 - first) % self.period
        end = high - np.where(rest < reach, 0, rest - reach + 1)
        some = begin < end
        return of[some], begin[some] // self.tile, -(-end[some] // self.tile)

    def _apart(self, of: Array, first: Array, reach: Array, ends: tuple[Array, Array]) -> Runs:
        """The tiles of each stretch."""
        tile, begin, end = self._stretches(of, first, reach, ends)
        return tile, begin // self.tile, -(-end // self.tile)

    def _stretches(
        self, of: Array, first: Array, reach: Array, ends: tuple[Array, Array]
    ) -> tuple[Array, Array, Array]:
        """Each stretch of [first, first + reach) that meets the ends, cut to them: [stretches]."""
        low, high, first, reach = (x[of] for x in (*ends, first, reach))
        nearest = -((first + reach - 1 - low) // self.period)
        after = -((first - high) // self.period)
        at, number = numbered(np.maximum(after - nearest, 0))
        begin = first[at] + (number + nearest[at]) * self.period
        return of[at], np.maximum(begin, low[at]), np.minimum(begin + reach[at], high[at])

    def full_runs(self) -> Iterator[Runs]:
        """Where tiles are full."""
        low, high = self.full
        drift = self.reach - self.width
        common, first = self.width - drift, self.first + drift
        of = np.flatnonzero((common >= self.tile) & (low < high))
        tile, begin, end = self._stretches(of, first, common, self.full)
        start, stop = -(-begin // self.tile), end // self.tile
        some = start < stop
        yield tile[some], start[some], stop[some]
        last = np.full_like(self.first, (self.length - 1) // self.tile)  # it may be shorter
        of = np.flatnonzero(self.is_full(last))
        yield of, last[of], last[of] + 1

    def is_full(self, inner: Array) -> Array:
        """Is one inner tile of each outer tile full? bool [n]."""
        drift = self.reach - self.width
        begin = inner * self.tile
        end = np.minimum(begin + self.tile, self.length)
        rest = (begin - self.first - drift) % self.period
        whole = rest + end - begin <= self.width - drift
        return np.asarray(whole & (self.full[0] <= begin) & (end <= self.full[1]))


def count_between(low: Array, high: Array, anchor: Array, width: Array, period: int) -> Array:
    """Positions of [low, high) that a sieve lets through: int64, 0 where high <= low."""
    found = [
        (x - anchor) // period * width + np.minimum((x - anchor) % period, width)
        for x in (low.astype(np.int64), np.maximum(low, high).astype(np.int64))
    ]
    return np.asarray(found[1] - found[0])
