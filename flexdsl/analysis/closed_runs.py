"""Tile ranges, runs and exact counts of a closed form, by evaluating its ends.

Everything is computed for all outer tiles (or a chunk of rows) at once, in arrays of a few numbers
for each (and a few for each stretch of a sieve). Nothing is proven here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.closed_form import BOTTOM, ClosedForm, Interval
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.scene import chunks
from flexdsl.analysis.sieved_runs import Stretches, count_between
from flexdsl.analysis.table import Runs, RunTable, merged, table_of_runs
from flexdsl.analysis.telling_rows import Intervals, telling_rows
from flexdsl.analysis.values import Bindings
from flexdsl.ir import Expr, evaluate_all

Array = NDArray[Any]
Ranges = tuple[Array, Array]  # starts and stops
ROWS = 1 << 12  # outer positions evaluated at once
TILES = 1 << 11  # outer tiles looked at together
STRETCHES = 1 << 18  # of outer tiles looked at together
TILE_ENDS = "live_lower", "live_upper", "full_lower", "full_upper"


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Rows of outer tiles that follow on each other, with their ends.

    Attributes:
        tiles: which of those that were asked about.
        of: the tile of each row, from 0 on.
        first: the first row of each tile.
        low, high: inner indices, [rows, intervals].
    """

    tiles: slice
    of: Array
    first: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False)
class Ends:
    """A closed form on a grid: its outer axis, and its ends as arrays."""

    form: ClosedForm
    grid: Grid
    bindings: Bindings
    _told: dict[Intervals, tuple[Array | None, Array]] = field(default_factory=dict)

    @property
    def outer(self) -> str:
        """The variable of the outer axis."""
        return "q" if self.form.inner == "kv" else "kv"

    @property
    def outer_len(self) -> int:
        """Rows (or columns) along the outer axis."""
        return self.grid.q_len if self.outer == "q" else self.grid.kv_len

    @property
    def outer_tiles(self) -> int:
        """Tiles along the outer axis."""
        return self.grid.q_tiles if self.outer == "q" else self.grid.kv_tiles

    @property
    def inner_len(self) -> int:
        """Length of the inner axis."""
        return self.grid.kv_len if self.outer == "q" else self.grid.q_len

    @property
    def inner_tile(self) -> int:
        """Tile size along the inner axis."""
        return self.grid.tile[1 if self.outer == "q" else 0]

    @property
    def inner_offset(self) -> int:
        """Position of the first inner element."""
        return 0 if self.outer == "q" else self.grid.q_offset

    @property
    def groups(self) -> int:
        """How many (b, h) the mask tells apart."""
        return self.grid.batch * self.grid.heads

    @property
    def rows(self) -> int:
        """Outer tiles of all groups."""
        return self.groups * self.outer_tiles

    def tile_rows(self, rows: Array, count: int = 1) -> tuple[Array, Array, Array, Array]:
        """b, h, first and last position of outer tiles, by their numbers in all groups.

        Args:
            count: how many that follow on each other are taken for one.
        """
        size = self.grid.tile[0 if self.outer == "q" else 1]
        offset = self.grid.q_offset if self.outer == "q" else 0
        group, tile = np.divmod(rows, max(self.outer_tiles, 1))
        b, h = np.divmod(group, max(self.grid.heads, 1))
        first = tile * size
        last = np.minimum(first + count * size, self.outer_len) - 1
        return b, h, first + offset, last + offset

    def evaluate(self, ends: list[Expr], variables: dict[str, Array]) -> Array:
        """Ends as inner indices from 0, cut to [0, length]: int32 [..., ends]."""
        uncut = self._uncut(ends, variables)
        cut = np.zeros((len(ends), *_shape(variables)), np.int32)
        for k, end in enumerate(uncut):
            np.minimum(np.maximum(end, 0), self.inner_len, out=cut[k], casting="same_kind")
        return np.moveaxis(cut, 0, -1)

    def _uncut(self, ends: list[Expr], variables: dict[str, Array]) -> Iterator[Array]:
        """Ends as inner indices, which may be outside of the axis."""
        found = evaluate_all(tuple(ends), variables, self.bindings.all)
        return (end - self.inner_offset for end in found)

    def of_rows(self, b: Array, h: Array, position: Array) -> tuple[Array, Array]:
        """Lower and upper ends at outer positions, of what has no sieve: [..., intervals]."""
        intervals = tuple(i for i in self.form.intervals if i.sieve is None)
        return self._ends_of(intervals, {"b": b, "h": h, self.outer: position})

    def _ends_of(self, intervals: Intervals, variables: dict[str, Array]) -> tuple[Array, Array]:
        """Lower and upper ends: [..., intervals]."""
        ends = [i.lower for i in intervals] + [i.upper for i in intervals]
        cut = self.evaluate(ends, variables)
        return cut[..., : len(intervals)], cut[..., len(intervals) :]

    def counts(self, b: Array, h: Array, position: Array, within: Ranges | None = None) -> Array:
        """Allowed inner positions of outer ones: int64 [...].

        Args:
            within: inner indices that count, start and stop; all of them if None.
        """
        low, high = joined(*self.of_rows(b, h, position))
        if within is not None:
            low, high = (np.clip(end, *(x[..., None] for x in within)) for end in (low, high))
        found = np.maximum(high - low, 0).sum(axis=-1, dtype=np.int64)
        for interval in self.form.intervals:
            if interval.sieve is None:
                continue
            variables = {"b": b, "h": h, self.outer: position}
            ends = self.evaluate([interval.lower, interval.upper], variables)
            begin, width = evaluate_all(
                (interval.sieve.anchor, interval.sieve.width), variables, self.bindings.all
            )
            anchor, width = (begin - self.inner_offset)[..., None], width[..., None]
            period = interval.sieve.period
            if within is not None:
                ends = np.clip(ends, *(x[..., None] for x in within))
            start, stop = ends[..., :1], ends[..., 1:]
            found = found + count_between(start, stop, anchor, width, period)[..., 0]
            start, stop = np.maximum(start, low), np.minimum(stop, high)
            found -= count_between(start, stop, anchor, width, period).sum(axis=-1)
        return np.asarray(found)

    def tiles(self, rows: Array, count: int = 1) -> tuple[Ranges, Ranges]:
        """Live inner tiles, and full ones, of outer tiles by their numbers: [rows, intervals].

        Those of the interval whose tiles lie apart are not in it.

        Args:
            count: how many that follow on each other are taken for one: what is live in any of
                them, and full in all. 1 where bounds are by rows.
        """
        low, high, full_low, full_high = self._tile_ends(rows, count)
        start, stop = low // self.inner_tile, -(-high // self.inner_tile)
        live = start, np.where(low < high, stop, start)
        return live, self.contained(full_low, full_high)

    def positions_of(self, inner: Array) -> Ranges:
        """The inner indices of inner tiles: start and stop."""
        begin = inner * self.inner_tile
        return begin, np.minimum(begin + self.inner_tile, self.inner_len)

    def contained(self, low: Array, high: Array) -> Ranges:
        """The tiles inside [low, high); the last tile ends at the length."""
        start = -(-low // self.inner_tile)
        tiles = -(-self.inner_len // self.inner_tile)
        stop = np.where(high >= self.inner_len, tiles, high // self.inner_tile)
        return start, np.where(low < high, np.maximum(stop, start), start)

    def _tile_ends(self, rows: Array, count: int) -> tuple[Array, Array, Array, Array]:
        """Live and full lower and upper ends of outer tiles, [rows, intervals] each."""
        b, h, first, last = self.tile_rows(rows, count)
        variables = {"b": b, "h": h, f"{self.outer}_first": first, f"{self.outer}_last": last}
        intervals = self.form.plain
        by_name = [[_end(i, name) for i in intervals] for name in TILE_ENDS]
        ends = self.evaluate([end for ends in by_name for end in ends], variables)
        ends = ends.reshape(len(rows), len(TILE_ENDS), len(intervals))
        for n, interval in enumerate(intervals):
            if interval.by_rows:
                ends[..., n] = self._extremes(interval, rows)
        return ends[:, 0], ends[:, 1], ends[:, 2], ends[:, 3]

    def _extremes(self, interval: Interval, tiles: Array) -> Array:
        """The same of an interval that has its bounds by rows: [tiles, 4]."""
        found = []
        for rows in self.rows_of((interval,), tiles):
            low, high = rows.low[:, 0], rows.high[:, 0]
            live_low, live_high = self.live(low, high)
            ends = (live_low, np.minimum), (live_high, np.maximum)
            whole = (low, np.maximum), (high, np.minimum)
            found.append(np.stack([f.reduceat(x, rows.first) for x, f in (*ends, *whole)], axis=1))
        return np.concatenate(found)

    def live(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Ends of rows, for an empty one the length and 0."""
        some = low < high
        return np.where(some, low, self.inner_len), np.where(some, high, 0)

    def rows_of(self, intervals: Intervals, tiles: Array, together: int = ROWS) -> Iterator[Rows]:
        """Lower and upper ends in those rows of outer tiles that tell of all of them.

        Args:
            together: about so many rows at a time.
        """
        tile, (told, starts) = tiles % self.outer_tiles, self._telling(intervals)
        begin, counts = starts[tile], (starts[1:] - starts[:-1])[tile]
        before = np.cumsum(counts)
        cuts = np.searchsorted(before, np.arange(together, before[-1], together), side="right")
        offset = self.grid.q_offset if self.outer == "q" else 0
        for start, stop in pairwise(np.unique([0, *cuts, len(tiles)])):
            part = slice(start, stop)
            first = np.cumsum(counts[part]) - counts[part]
            of = np.repeat(np.arange(stop - start), counts[part])
            row = np.arange(len(of)) + (begin[part] - first)[of]
            position = (row if told is None else told[row]) + offset
            b, h = self.tile_rows(tiles[part])[:2]
            variables = {"b": b[of], "h": h[of], self.outer: position}
            low, high = self._ends_of(intervals, variables)
            yield Rows(part, of, first, low, high)

    def _telling(self, intervals: Intervals) -> tuple[Array | None, Array]:
        """The rows that tell, None for all of them, and where those of each tile begin, and end."""
        if intervals not in self._told:
            size = self.grid.tile[0 if self.outer == "q" else 1]
            prover = Prover(self.outer, self.grid, self.bindings)
            told = telling_rows(intervals, prover, size)
            starts = np.minimum(np.arange(self.outer_tiles + 1) * size, self.outer_len)
            starts = starts if told is None else np.searchsorted(told, starts)
            self._told[intervals] = told, starts.astype(np.int32)
        return self._told[intervals]

    def table(self) -> RunTable:
        """The runs of every outer tile."""
        return table_of_runs(self.rows, (self._runs_of(tiles) for tiles in self._parts()))

    def _parts(self) -> Iterator[Array]:
        """The numbers of all outer tiles, as many as are looked at together."""
        size = TILES
        if (sieved := self.form.sieved) is not None and sieved.sieve is not None:
            of_row = 1 + self.inner_len // max(sieved.sieve.period, self.inner_tile)
            size = max(1, min(TILES, STRETCHES // of_row))
        return (np.arange(part.start, part.stop) for part in chunks(self.rows, size))

    def _runs_of(self, tiles: Array) -> Runs:
        """The runs of outer tiles that follow on each other."""
        live, full = (listed(*ranges) for ranges in self.tiles(tiles))
        if self.form.sieved is not None:
            stretches = self.stretches(tiles)
            live, full = [*live, *stretches.live_runs()], [*full, *stretches.full_runs()]
        of, start, stop, is_full = united(live, full, -(-self.inner_len // self.inner_tile))
        return merged(tiles[of], start, stop, is_full)

    def stretches(self, tiles: Array) -> Stretches:
        """What outer tiles have of the interval whose tiles lie apart."""
        interval = self.form.sieved
        assert interval is not None and interval.sieve is not None
        b, h, first, last = self.tile_rows(tiles)
        variables = {"b": b, "h": h, f"{self.outer}_first": first, f"{self.outer}_last": last}
        ends = self.evaluate([getattr(interval, name) for name in TILE_ENDS], variables)
        sieve = interval.sieve
        asked = sieve.width, sieve.first(self.outer), sieve.reach(self.outer)
        found = evaluate_all(asked, variables, self.bindings.all)
        width, begin, reach = (np.broadcast_to(x, tiles.shape).astype(np.int64) for x in found)
        low, high, full_low, full_high = np.moveaxis(ends.astype(np.int64), -1, 0)
        return Stretches(
            sieve.period,
            width,
            begin - self.inner_offset,
            reach,
            (low, high),
            (full_low, full_high),
            self.inner_len,
            self.inner_tile,
        )

    def row_counts(self) -> Iterator[Array]:
        """Allowed inner positions of each outer position, in chunks: int64 arrays."""
        offset = self.grid.q_offset if self.outer == "q" else 0
        for group in range(self.groups):
            b, h = np.divmod(np.asarray(group), self.grid.heads)
            for part in chunks(self.outer_len, ROWS):
                position = np.arange(part.start, part.stop) + offset
                yield self.counts(b, h, position)


def _end(interval: Interval, name: str) -> Expr:
    """A bound of a tile; of a sieve between whose tiles no gap is, none is full."""
    is_known = not interval.by_rows and (interval.sieve is None or name in TILE_ENDS[:2])
    return getattr(interval, name) if is_known else BOTTOM


def _shape(variables: dict[str, Array]) -> tuple[int, ...]:
    return np.broadcast(*variables.values()).shape


Listed = tuple[Array, Array, Array]  # row, start and stop of ranges


def listed(starts: Array, stops: Array) -> list[Listed]:
    """Ranges [rows, n] as n lists, without empty ones."""
    rows = [np.flatnonzero(starts[:, n] < stops[:, n]) for n in range(starts.shape[1])]
    return [(row, starts[row, n], stops[row, n]) for n, row in enumerate(rows)]


def united(live: list[Listed], full: list[Listed], tiles: int, needed: Array | None = None) -> Runs:
    """The live ranges as disjoint runs, and whether each of them is in a full one.

    Args:
        tiles: along the inner axis.
        needed: in how many full ones it has to be, of each row.
    """
    width = tiles + 1
    at, steps = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int8)]
    for kind, ranges in enumerate((live, full)):
        for row, *ends in ranges:
            for end, step in zip(ends, (1, -1), strict=True):
                at.append(row * width + end)
                steps.append(np.zeros((len(row), 2), np.int8))
                steps[-1][:, kind] = step
    places = np.concatenate(at)
    order = np.argsort(places, kind="stable")
    places = places[order]
    # How many ranges of each kind there are from each place on.
    depth = np.cumsum(np.concatenate(steps)[order], axis=0, dtype=np.int32)
    (k,) = np.nonzero((places[:-1] < places[1:]) & (depth[:-1, 0] > 0))
    row, start = np.divmod(places[k], width)
    enough = 1 if needed is None else needed[row]
    return row, start, places[k + 1] - row * width, depth[k, 1] >= enough


def covered(at: Array, starts: Array, stops: Array) -> Array:
    """Is each of `at` [rows, k] in one of the ranges [rows, n]?"""
    result = np.zeros(at.shape, np.bool_)
    for n in range(starts.shape[1]):
        result |= (starts[:, n, None] <= at) & (at < stops[:, n, None])
    return result


def joined(low: Array, high: Array) -> tuple[Array, Array]:
    """The same union as disjoint ranges: overlapping or adjoining ones become one.

    Ranges that are swallowed stay, empty.
    """
    high = np.maximum(low, high)
    empty = high == low
    order = np.argsort(np.where(empty, np.iinfo(low.dtype).max, low), axis=-1, kind="stable")
    low, high = np.take_along_axis(low, order, -1), np.take_along_axis(high, order, -1)
    for k in range(1, low.shape[-1]):
        for earlier in range(k):
            # An earlier range that reaches this one hands over what it covers.
            reaches = (low[..., earlier] < high[..., earlier]) & (low[..., k] < high[..., k])
            reaches &= low[..., k] <= high[..., earlier]
            low[..., k] = np.where(reaches, low[..., earlier], low[..., k])
            high[..., k] = np.where(
                reaches, np.maximum(high[..., k], high[..., earlier]), high[..., k]
            )
            high[..., earlier] = np.where(reaches, low[..., earlier], high[..., earlier])
    return low, high
