"""Tile ranges, runs and exact counts of a closed form, by evaluating its ends.

Everything is computed for all outer tiles (or a chunk of rows) at once, in arrays of a few numbers
for each. Nothing is proven here, except that no tile is full in the union of two intervals alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.anchors import slope_of_anchor
from flexdsl.analysis.closed_form import ClosedForm, Interval
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.scene import chunks
from flexdsl.analysis.table import RunTable, make_table
from flexdsl.analysis.values import Bindings
from flexdsl.ir import Expr, Op, const, evaluate, walk

Array = NDArray[Any]
ROWS = 1 << 16  # outer positions evaluated at once
TILES = 1 << 10  # outer tiles looked at together


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

    @cached_property
    def tile_rows(self) -> tuple[Array, Array, Array, Array]:
        """b, h, first and last position of every outer tile of every group, [rows] each."""
        tiles = self.outer_tiles
        size = self.grid.tile[0 if self.outer == "q" else 1]
        offset = self.grid.q_offset if self.outer == "q" else 0
        group, tile = np.divmod(np.arange(self.groups * tiles), max(tiles, 1))
        b, h = np.divmod(group, max(self.grid.heads, 1))
        first = tile * size
        last = np.minimum(first + size, self.outer_len) - 1
        return b, h, first + offset, last + offset

    def evaluate(self, ends: list[Expr], variables: dict[str, Array]) -> Array:
        """Ends as inner indices from 0, cut to [0, length]: int64 [..., ends]."""
        return np.clip(self._uncut(ends, variables), 0, self.inner_len)

    def _uncut(self, ends: list[Expr], variables: dict[str, Array]) -> Array:
        """Ends as inner indices, which may be outside of the axis."""
        shape = np.broadcast_shapes(*(v.shape for v in variables.values()))
        values = self.bindings.all
        arrays = [np.broadcast_to(evaluate(e, variables, values), shape) for e in ends]
        stacked = np.stack(arrays, axis=-1) if arrays else np.zeros((*shape, 0), np.int64)
        return np.asarray(stacked - self.inner_offset)

    def of_rows(self, b: Array, h: Array, position: Array) -> tuple[Array, Array]:
        """Lower and upper ends at outer positions: [..., intervals]."""
        variables = {"b": b, "h": h, self.outer: position}
        intervals = self.form.intervals
        lower = self._uncut([i.lower for i in intervals], variables)
        # Before the axis begins, steps go on to their first position in it.
        lower = np.where(lower < 0, lower % np.array([i.stride for i in intervals], int), lower)
        upper = self.evaluate([i.upper for i in intervals], variables)
        return np.minimum(lower, self.inner_len), upper

    def live_tiles(self) -> tuple[Array, Array]:
        """Live inner tiles [start, stop) of each outer tile and interval: [rows, intervals]."""
        low, high = self._tile_ends("live")
        start, stop = low // self.inner_tile, -(-high // self.inner_tile)
        return start, np.where(low < high, stop, start)

    def full_tiles(self) -> tuple[Array, Array]:
        """Full inner tiles [start, stop) of each outer tile and interval."""
        return self._contained(*self._tile_ends("full"))

    def _contained(self, low: Array, high: Array) -> tuple[Array, Array]:
        """The tiles inside [low, high); the last tile ends at the length."""
        start = -(-low // self.inner_tile)
        tiles = -(-self.inner_len // self.inner_tile)
        stop = np.where(high >= self.inner_len, tiles, high // self.inner_tile)
        return start, np.where(low < high, np.maximum(stop, start), start)

    def _tile_ends(self, which: str) -> tuple[Array, Array]:
        b, h, first, last = self.tile_rows
        variables = {"b": b, "h": h, f"{self.outer}_first": first, f"{self.outer}_last": last}
        ends = []
        for side in ("lower", "upper"):
            found = [getattr(i, f"{which}_{side}") for i in self.form.intervals]
            known = [
                const(0) if i.by_rows else e
                for i, e in zip(self.form.intervals, found, strict=True)
            ]
            ends.append(self.evaluate(known, variables))
        for n, bounds in self._by_rows.items():
            ends[0][:, n], ends[1][:, n] = bounds[which]
        return ends[0], ends[1]

    @cached_property
    def _by_rows(self) -> dict[int, dict[str, tuple[Array, Array]]]:
        """Live and full bounds of every outer tile, of the intervals that have them by rows."""
        numbers = [n for n, i in enumerate(self.form.intervals) if i.by_rows]
        parts = [self._bounds_of(n) for n in numbers]
        return dict(zip(numbers, parts, strict=True))

    def _bounds_of(self, number: int) -> dict[str, tuple[Array, Array]]:
        found = [
            (low.min(axis=1), high.max(axis=1), full_low.max(axis=1), full_high.min(axis=1))
            for low, high, full_low, full_high in self._rows_of(number)
        ]
        live_low, live_high, full_low, full_high = (
            np.concatenate(x) for x in zip(*found, strict=True)
        )
        return {"live": (live_low, live_high), "full": (full_low, full_high)}

    def _rows_of(self, number: int) -> Iterator[tuple[Array, Array, Array, Array]]:
        """Ends of the rows of outer tiles, [tiles, rows], chunk by chunk: live ones and plain ones.

        An empty row has the length and 0 for live ends. Rows past the end stand for the last one.
        """
        interval = self.form.intervals[number]
        b, h, first, last = self.tile_rows
        size = self.grid.tile[0 if self.outer == "q" else 1]
        for part in chunks(len(b), max(1, ROWS // size)):
            rows = np.minimum(first[part, None] + np.arange(size), last[part, None])
            variables = {"b": b[part, None], "h": h[part, None], self.outer: rows}
            ends = self.evaluate([interval.lower, interval.upper], variables)
            low, high = ends[..., 0], ends[..., 1]
            some = low < high
            yield np.where(some, low, self.inner_len), np.where(some, high, 0), low, high

    def leaves_gaps(self) -> bool:
        """Is an inner tile between bounds by rows live in no row of its outer tile?"""
        return any(
            _has_gap(low, high, self.inner_tile)
            for n, interval in enumerate(self.form.intervals)
            if interval.by_rows and not self._is_anchored(interval)
            for low, high, _, _ in self._rows_of(n)
        )

    def _is_anchored(self, interval: Interval) -> bool:
        """Does no inner tile fit between the rows of an outer tile, whatever they load?"""
        slope = slope_of_anchor(interval, Prover(self.outer, self.grid, self.bindings))
        rows = self.grid.tile[0 if self.outer == "q" else 1]
        return slope is not None and slope * (rows - 1) <= self.inner_tile

    def table(self) -> RunTable:
        """The runs of every outer tile."""
        live, full = self.live_tiles(), self.full_tiles()
        edges = np.sort(np.concatenate([*live, *full], axis=1), axis=1)
        starts, stops = edges[:, :-1], edges[:, 1:]
        is_live, is_full = _covered(starts, *live), _covered(starts, *full)
        row, k = np.nonzero((starts < stops) & is_live)
        rows = self.groups * self.outer_tiles
        return make_table(rows, row, starts[row, k], stops[row, k], is_full[row, k])

    def full_in_union_only(self) -> bool:
        """May a tile be full in the union of the intervals, but in none of them?

        Such a tile is live in two of them, and covered at every outer position: at the first, the
        last, and wherever a condition changes. What no interval covers alone is then suspect.
        """
        if len(self.form.intervals) < 2:
            return False
        full = self.full_tiles()
        near = np.flatnonzero(_any_share(self.live_tiles(), full))
        return any(self._is_suspect(near[part], *full) for part in chunks(len(near), TILES))

    def _is_suspect(self, tiles: Array, start: Array, stop: Array) -> bool:
        """Is, in one of these outer tiles, a tile covered by several intervals only?

        Args:
            start, stop: full tiles of all outer ones, as of `full_tiles`.
        """
        b, h, first, last = (x[tiles] for x in self.tile_rows)
        positions = [first, last, *self._edges(b, h, first, last)]
        rows = np.stack(positions, axis=1)
        low, high = self.of_rows(b[:, None], h[:, None], rows)
        covers = [self._contained(*_joined(low[:, k], high[:, k])) for k in range(rows.shape[1])]
        single = start[tiles], stop[tiles]
        parts = [x for pair in (*covers, single) for x in pair]
        edges = np.sort(np.concatenate(parts, axis=1), axis=1)
        starts, stops = edges[:, :-1], edges[:, 1:]
        suspect = (starts < stops) & ~_covered(starts, *single)
        for cover in covers:
            suspect &= _covered(starts, *cover)
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


def _any_share(live: tuple[Array, Array], full: tuple[Array, Array]) -> Array:
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
    order = np.argsort(np.where(empty, np.iinfo(np.int64).max, low), axis=-1, kind="stable")
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
