"""Tile ranges, runs and exact counts of a closed form, by evaluating its ends.

Everything is computed for all outer tiles (or a chunk of rows) at once, in arrays of a few numbers
for each. Nothing is proven here, except that no tile is full in the union of two intervals alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.anchors import slope_of_anchor
from flexdsl.analysis.closed_form import ClosedForm, Interval
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.scene import chunks
from flexdsl.analysis.table import Runs, RunTable, merged, table_of_runs
from flexdsl.analysis.values import Bindings
from flexdsl.ir import Expr, Op, const, evaluate, evaluate_all, walk

Array = NDArray[Any]
Ranges = tuple[Array, Array]  # starts and stops
ROWS = 1 << 14  # outer positions evaluated at once
TILES = 1 << 12  # outer tiles looked at together
TOGETHER = 64  # outer tiles taken for one, where that tells enough
TILE_ENDS = "live_lower", "live_upper", "full_lower", "full_upper"


@dataclass(frozen=True, eq=False)
class Ends:
    """A closed form on a grid: its outer axis, and its ends as arrays."""

    form: ClosedForm
    grid: Grid
    bindings: Bindings

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

    def _tile_rows(self, rows: Array, count: int = 1) -> tuple[Array, Array, Array, Array]:
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
        """Lower and upper ends at outer positions: [..., intervals]."""
        variables = {"b": b, "h": h, self.outer: position}
        intervals = self.form.intervals
        ends = self._uncut([i.lower for i in intervals] + [i.upper for i in intervals], variables)
        # Before the axis begins, steps go on to their first position in it.
        strides = [i.stride for i in intervals] + [1] * len(intervals)
        cut = np.zeros((len(strides), *_shape(variables)), np.int32)
        for k, (stride, end) in enumerate(zip(strides, ends, strict=True)):
            inside = np.maximum(end, 0) if stride == 1 else np.where(end < 0, end % stride, end)
            np.minimum(inside, self.inner_len, out=cut[k], casting="same_kind")
        cut = np.moveaxis(cut, 0, -1)
        return cut[..., : len(intervals)], cut[..., len(intervals) :]

    def tiles(self, rows: Array, count: int = 1) -> tuple[Ranges, Ranges]:
        """Live inner tiles, and full ones, of outer tiles by their numbers: [rows, intervals].

        Args:
            count: how many that follow on each other are taken for one: what is live in any of
                them, and full in all. 1 where bounds are by rows.
        """
        low, high, full_low, full_high = self._tile_ends(rows, count)
        start, stop = low // self.inner_tile, -(-high // self.inner_tile)
        live = start, np.where(low < high, stop, start)
        return live, self._contained(full_low, full_high)

    def _contained(self, low: Array, high: Array) -> Ranges:
        """The tiles inside [low, high); the last tile ends at the length."""
        start = -(-low // self.inner_tile)
        tiles = -(-self.inner_len // self.inner_tile)
        stop = np.where(high >= self.inner_len, tiles, high // self.inner_tile)
        return start, np.where(low < high, np.maximum(stop, start), start)

    def _tile_ends(self, rows: Array, count: int) -> tuple[Array, Array, Array, Array]:
        """Live and full lower and upper ends of outer tiles, [rows, intervals] each."""
        b, h, first, last = self._tile_rows(rows, count)
        variables = {"b": b, "h": h, f"{self.outer}_first": first, f"{self.outer}_last": last}
        intervals = self.form.intervals
        by_name = [
            [const(0) if i.by_rows else getattr(i, name) for i in intervals] for name in TILE_ENDS
        ]
        ends = self.evaluate([end for ends in by_name for end in ends], variables)
        ends = ends.reshape(len(rows), len(TILE_ENDS), len(intervals))
        for n, interval in enumerate(intervals):
            if interval.by_rows:
                ends[..., n] = self._extremes(interval, rows)
        return ends[:, 0], ends[:, 1], ends[:, 2], ends[:, 3]

    def _extremes(self, interval: Interval, tiles: Array) -> Array:
        """The same of an interval that has its bounds by rows: [tiles, 4]."""
        found = [
            (low.min(axis=1), high.max(axis=1), full_low.max(axis=1), full_high.min(axis=1))
            for low, high, full_low, full_high in self._rows_of(interval, tiles)
        ]
        return np.concatenate([np.stack(ends, axis=1) for ends in found])

    def _rows_of(
        self, interval: Interval, tiles: Array
    ) -> Iterator[tuple[Array, Array, Array, Array]]:
        """Ends of the rows of outer tiles, [tiles, rows], chunk by chunk: live ones and plain ones.

        An empty row has the length and 0 for live ends. Rows past the end stand for the last one.
        """
        size = self.grid.tile[0 if self.outer == "q" else 1]
        for part in chunks(len(tiles), max(1, ROWS // size)):
            b, h, first, last = (x[:, None] for x in self._tile_rows(tiles[part]))
            rows = np.minimum(first + np.arange(size), last)
            variables = {"b": b, "h": h, self.outer: rows}
            ends = self.evaluate([interval.lower, interval.upper], variables)
            low, high = ends[..., 0], ends[..., 1]
            some = low < high
            yield np.where(some, low, self.inner_len), np.where(some, high, 0), low, high

    def leaves_gaps(self) -> bool:
        """Is an inner tile between bounds by rows live in no row of its outer tile?"""
        return any(
            _has_gap(low, high, self.inner_tile)
            for interval in self.form.intervals
            if interval.by_rows and not self._is_anchored(interval)
            for low, high, _, _ in self._rows_of(interval, np.arange(self.rows))
        )

    def _is_anchored(self, interval: Interval) -> bool:
        """Does no inner tile fit between the rows of an outer tile, whatever they load?"""
        slope = slope_of_anchor(interval, Prover(self.outer, self.grid, self.bindings))
        rows = self.grid.tile[0 if self.outer == "q" else 1]
        return slope is not None and slope * (rows - 1) <= self.inner_tile

    def table(self) -> RunTable:
        """The runs of every outer tile."""
        return table_of_runs(self.rows, (self._runs_of(tiles) for tiles in self._parts()))

    def _parts(self) -> Iterator[Array]:
        """The numbers of all outer tiles, as many as are looked at together."""
        return (np.arange(part.start, part.stop) for part in chunks(self.rows, TILES))

    def _runs_of(self, tiles: Array) -> Runs:
        """The runs of outer tiles that follow on each other."""
        live, full = self.tiles(tiles)
        edges = np.sort(np.concatenate([*live, *full], axis=1), axis=1)
        starts, stops = edges[:, :-1], edges[:, 1:]
        is_live, is_full = _covered(starts, *live), _covered(starts, *full)
        row, k = np.nonzero((starts < stops) & is_live)
        return merged(tiles[row], starts[row, k], stops[row, k], is_full[row, k])

    def full_in_union_only(self) -> bool:
        """May a tile be full in the union of the intervals, but in none of them?

        Such a tile is live in two of them, and covered at every outer position: at the first, the
        last, and wherever a condition changes. What no interval covers alone is then suspect.
        """
        if len(self.form.intervals) < 2:
            return False
        return any(self._is_suspect(tiles, full) for tiles, full in self._near())

    def _near(self) -> Iterator[tuple[Array, Ranges]]:
        """The outer tiles where a tile may be live in two intervals, full in none; their full ones.

        Bounds of tiles are those of any range of rows, so that most are left out many at a time.
        """
        count = 1 if any(interval.by_rows for interval in self.form.intervals) else TOGETHER
        first = np.arange(0, self.outer_tiles, count)
        found = (np.arange(self.groups)[:, None] * self.outer_tiles + first).reshape(-1)
        if count > 1:
            near = [tiles for tiles, _ in self._of_those_near(found, count)]
            within = np.concatenate([found[:0], *near])[:, None] + np.arange(count)
            same_group = within[:, :1] // self.outer_tiles == within // self.outer_tiles
            found = within[same_group]
        yield from self._of_those_near(found, 1)

    def _of_those_near(self, tiles: Array, count: int) -> Iterator[tuple[Array, Ranges]]:
        for part in chunks(len(tiles), TILES):
            live, full = self.tiles(tiles[part], count)
            near = _any_share(live, full)
            if near.any():
                yield tiles[part][near], (full[0][near], full[1][near])

    def _is_suspect(self, tiles: Array, full: Ranges) -> bool:
        """Is, in one of these outer tiles, a tile covered by several intervals only?

        Args:
            full: what each interval covers alone.
        """
        b, h, first, last = self._tile_rows(tiles)
        rows = np.stack([first, last, *self._edges(b, h, first, last)], axis=1)
        low, high = self.of_rows(b[:, None], h[:, None], rows)
        covers = self._contained(*_joined(low, high))  # [tiles, rows, intervals]
        parts = [x.reshape(len(tiles), -1) for x in (*covers, *full)]
        edges = np.sort(np.concatenate(parts, axis=1), axis=1)
        starts, stops = edges[:, :-1], edges[:, 1:]
        suspect = (starts < stops) & ~_covered(starts, *full)
        for row in range(rows.shape[1]):
            suspect &= _covered(starts, covers[0][:, row], covers[1][:, row])
        return bool(suspect.any())

    def _edges(self, b: Array, h: Array, first: Array, last: Array) -> Iterator[Array]:
        """Where conditions of the outer variable change, moved into each tile."""
        found: dict[Expr, None] = {}
        for node in walk(*(e for i in self.form.intervals for e in (i.lower, i.upper))):
            if node.op in (Op.LT, Op.GE) and node.args[0].attribute == self.outer:
                found[node.args[1]] = None
        for edge in found:
            if self.outer not in edge.variables:
                at = evaluate(edge, {"b": b, "h": h}, self.bindings.all)
                for position in (at - 1, at):
                    yield np.clip(np.broadcast_to(position, first.shape), first, last)

    def row_counts(self) -> Iterator[Array]:
        """Allowed inner positions of each outer position, in chunks: int64 arrays."""
        offset = self.grid.q_offset if self.outer == "q" else 0
        for group in range(self.groups):
            b, h = np.divmod(np.asarray(group), self.grid.heads)
            for part in chunks(self.outer_len, ROWS):
                position = np.arange(part.start, part.stop) + offset
                low, high = _joined(*self.of_rows(b, h, position))
                # An interval with a stride is the only one.
                stride = max((i.stride for i in self.form.intervals), default=1)
                yield np.maximum(-((low - high) // stride), 0).sum(axis=-1)


def _shape(variables: dict[str, Array]) -> tuple[int, ...]:
    return np.broadcast(*variables.values()).shape


def _any_share(live: Ranges, full: Ranges) -> Array:
    """Have two intervals of an outer tile a live tile in common that may be full in neither?

    Args:
        live, full: start and stop of ranges of tiles, [rows, intervals] each.

    Returns:
        bool [rows].
    """
    start, stop = live
    result = np.zeros(len(start), np.bool_)
    for m in range(start.shape[1]):
        for n in range(m):
            first = np.maximum(start[:, m], start[:, n])
            last = np.minimum(stop[:, m], stop[:, n])
            shared = first < last
            for k in (m, n):
                shared &= (first < full[0][:, k]) | (full[1][:, k] < last)
            result |= shared
    return result


def _has_gap(low: Array, high: Array, tile: int) -> bool:
    """Do rows [low, high) of [tiles, rows], in any order, leave a whole tile between them?"""
    # Most rows touch the next one, and then nothing is to be sorted.
    apart = (low[:, 1:] > high[:, :-1]) | (low[:, :-1] > high[:, 1:])
    unsure = apart.any(axis=1)
    low, high = low[unsure], high[unsure]
    order = np.argsort(low, axis=1)
    low, high = np.take_along_axis(low, order, 1), np.take_along_axis(high, order, 1)
    reached = np.maximum.accumulate(high, axis=1)[:, :-1]
    following = low[:, 1:]
    some = high[:, 1:] > 0  # empty rows come last
    return bool((some & (-(-reached // tile) < following // tile)).any())


def _covered(at: Array, starts: Array, stops: Array) -> Array:
    """Is each of `at` [rows, k] in one of the ranges [rows, n]?"""
    result = np.zeros(at.shape, np.bool_)
    for n in range(starts.shape[1]):
        result |= (starts[:, n, None] <= at) & (at < stops[:, n, None])
    return result


def _joined(low: Array, high: Array) -> tuple[Array, Array]:
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
