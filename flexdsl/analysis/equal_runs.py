"""The table of equalities `f(q) == g(kv)`, in a band of q - kv or not, by joining runs of values.

Windows of an image, documents, random blocks: an interval of values tells little of them. Positions
that follow on each other and have one value are one run, and runs of equal values are joined, so
the cost follows the pairs of runs. They are disjoint, so that a tile is full if their areas, or
what a band leaves of them, fill it. No pair is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from math import gcd, prod
from operator import and_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.bands import Band, band_of
from flexdsl.analysis.block_grid import block_of
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.join import FEW, Join, join_of, sides_of, values_of
from flexdsl.analysis.near_keys import NearKeys, near_keys
from flexdsl.analysis.ranges import narrowed
from flexdsl.analysis.scene import Scene, chunks
from flexdsl.analysis.table import Runs, RunTable, merged, table_of_runs
from flexdsl.analysis.truth import flatten
from flexdsl.analysis.values import specialise, substitute
from flexdsl.ir import Expr, Op, var

Array = NDArray[Any]
POSITIONS = 3 << 12  # of an axis, evaluated at once
BAND = 1 << 11  # pairs of runs treated together
PARTS, MOST = 32, 1 << 12  # parts where there are many, and pairs of each then
LOOKS = 1 << 24  # at values of all positions
LARGEST = 2**62  # of a number that stands for the values of several equalities


def joined_table(scene: Scene) -> RunTable | None:
    """The runs of kv tiles of every q tile.

    None where the mask is something else besides, or where so many values are equal, or there are
    so many positions, that proofs are faster.
    """
    mask = specialise(scene.expr, scene.bindings)
    parts = flatten(mask) if mask.op is Op.AND else [mask]
    found = [sides_of(part) or band_of(part) for part in parts]
    bands = [x for x in found if isinstance(x, Band)]
    sides = [x for x in found if isinstance(x, tuple)]
    grid = scene.grid
    looks = (grid.q_len + grid.kv_len) * grid.batch * grid.heads * len(sides)
    if not sides or None in found or grid.is_empty or looks > LOOKS:
        return None
    band, alike = reduce(and_, bands, Band()), _is_alike(sides, grid)
    groups = (_Equalities(scene, sides, g, alike) for g in np.ndindex(grid.batch, grid.heads))
    try:
        runs = (part for group in groups for part in group.runs(band))
        return table_of_runs(grid.batch * grid.heads * grid.q_tiles, runs)
    except _TooManyPairs:
        return None


class _TooManyPairs(Exception):
    """So many values are equal that proofs are faster."""


def _is_alike(sides: list[tuple[Expr, Expr]], grid: Grid) -> bool:
    """Do rows and keys have the same values in the same tiles, as documents' have?"""
    same = grid.q_len == grid.kv_len and grid.tile[0] == grid.tile[1] and not grid.q_offset
    return same and all(substitute(f, {var("q"): var("kv")}) is g for f, g in sides)


def _summed(number: Array, area: Array) -> tuple[Array, Array]:
    """Each number once, ascending, with the sum of its areas."""
    unique, of = np.unique(number, return_inverse=True)
    return unique, np.bincount(of, area, len(unique)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Spans:
    """Runs of positions with equal values, none of which reaches into another tile.

    Attributes:
        starts: int32 [n + 1]; the first index of each, and where the last one ends.
        tile: positions of a tile.
    """

    starts: Array
    tile: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def tiles(self, span: Array | slice) -> Array:
        """The tile that each of these is in."""
        return np.asarray(self.starts[:-1][span] // self.tile)

    def lengths(self, span: Array) -> Array:
        """How many positions each of these has."""
        return np.asarray(self.starts[span + 1] - self.starts[span])


_Found = tuple[_Spans, Array]  # and their values: integers [equalities, n]


@dataclass(frozen=True, eq=False)
class _Joined:
    """The spans of both axes, and the pairs of them whose values are equal."""

    rows: _Spans
    keys: _Spans
    pairs: Join

    def runs(self, band: Band, grid: Grid, first_row: int) -> Iterator[Runs]:
        """The runs of all rows of tiles, some rows at a time."""
        for part in self._whole_tiles():
            number, area = self._areas(part, band, grid)
            row, tile = np.divmod(number, grid.kv_tiles)
            height = np.minimum(grid.q_len - row * grid.tile[0], grid.tile[0])
            width = np.minimum(grid.kv_len - tile * grid.tile[1], grid.tile[1])
            yield merged(row + first_row, tile, tile + 1, area == height * width)

    def _whole_tiles(self) -> list[slice]:
        """The spans of all rows in parts that end where a tile does, BAND pairs or twice that."""
        pairs = np.cumsum(self.pairs.stop - self.pairs.first, dtype=np.int64)
        size = min(max(BAND, int(pairs[-1]) // PARTS), MOST)
        ends = np.flatnonzero(np.diff(self.rows.tiles(slice(None)), append=-1)) + 1
        cuts = np.searchsorted(pairs[ends - 1], np.arange(size, int(pairs[-1]), size))
        bounds = np.unique([0, *ends[cuts], len(self.rows)])
        return [slice(start, stop) for start, stop in pairwise(bounds)]

    def _areas(self, part: slice, band: Band, grid: Grid) -> tuple[Array, Array]:
        """The tiles of a part of the rows, by their numbers, and how many pairs each allows."""
        number, area = np.zeros((2, 0), np.int64)
        pairs = Join(self.pairs.order, self.pairs.first[part], self.pairs.stop[part])
        for row, key in pairs:
            row = row + part.start
            where = self.rows.starts[row] + grid.q_offset, self.rows.lengths(row)
            allowed = band.pairs(*where, self.keys.starts[key], self.keys.lengths(key))
            some = allowed > 0
            tile = self.rows.tiles(row[some]).astype(np.int64) * grid.kv_tiles
            tile += self.keys.tiles(key[some])
            number, area = _summed(np.append(number, tile), np.append(area, allowed[some]))
        return number, area


@dataclass(frozen=True, eq=False)
class _Equalities:
    """The equalities of one batch and head.

    Attributes:
        sides: f and g of each.
        group: b and h.
        alike: have rows and keys the same values in the same tiles?
    """

    scene: Scene
    sides: list[tuple[Expr, Expr]]
    group: tuple[int, ...]
    alike: bool

    def runs(self, band: Band) -> Iterator[Runs]:
        """The runs of all rows of tiles, some rows at a time. Raises `_TooManyPairs`."""
        grid, (b, h) = self.scene.grid, self.group
        for joined in self._parts():
            yield from joined.runs(band, grid, (b * grid.heads + h) * grid.q_tiles)
            del joined  # before the next one is made

    def _parts(self) -> Iterator[_Joined]:
        """The spans of some rows after others, with those of the keys near to them."""
        found = near_keys(self.scene, self.sides, self.group)
        if found is None:
            yield self._whole()
            return
        near, parts = found
        for part in parts:
            yield self._part(part, near)

    def _whole(self) -> _Joined:
        grid = self.scene.grid
        keys = self._spans("kv", (0, grid.kv_tiles))
        return _joined(keys if self.alike else self._spans("q", (0, grid.q_tiles)), keys)

    def _part(self, part: tuple[int, int], near: NearKeys) -> _Joined:
        rows = self._spans("q", part)
        pieces = list[_Found]()
        for first, stop in near.tiles(rows[1]):
            known = part if self.alike and first <= part[0] < stop else (stop, stop)
            for piece in ((first, known[0]), known, (known[1], stop)):
                if self.alike and piece == part:
                    pieces.append(rows)
                elif piece[0] < piece[1]:
                    pieces.append(self._spans("kv", piece))
        # A number that no row has.
        return _joined(rows, _beside(pieces, int(rows[1].max()) + 1))

    def _spans(self, axis: str, tiles: tuple[int, int]) -> _Found:
        """The spans of some tiles of an axis, from the first (inclusive) to the last (exclusive).

        A chunk after the other is looked at: what is kept are the spans alone.
        """
        grid, sides = self.scene.grid, [pair[axis == "kv"] for pair in self.sides]
        length, size = (grid.q_len, grid.tile[0]) if axis == "q" else (grid.kv_len, grid.tile[1])
        step = gcd(size, grid.q_offset) if axis == "q" else size
        for side in sides:
            step = block_of(side, axis, step)
        begin, end = tiles[0] * size, min(tiles[1] * size, length)
        starts, values = list[Array](), list[Array]()
        for part in chunks(end - begin, max(1, POSITIONS * step // size) * size):
            part = slice(part.start + begin, part.stop + begin, step)
            here = [values_of(self.scene, side, axis, self.group, part) for side in sides]
            opens = np.zeros(len(here[0]), np.bool_)
            opens[:: size // step] = True
            for value in here:
                opens[1:] |= value[1:] != value[:-1]
            first = np.flatnonzero(opens)
            starts.append((first * step + part.start).astype(np.int32))
            values.append(narrowed(np.stack([value[first] for value in here])))
        starts.append(np.array([end], np.int32))
        return _Spans(np.concatenate(starts), size), np.concatenate(values, axis=1)


def _joined(rows: _Found, keys: _Found) -> _Joined:
    """The pairs of spans with equal values. Raises `_TooManyPairs`."""
    join = join_of(*_numbers(rows[1], keys[1]))
    if join.pairs > FEW * (len(rows[0]) + len(keys[0])):
        raise _TooManyPairs
    return _Joined(rows[0], keys[0], join)


def _beside(pieces: list[_Found], other: int) -> _Found:
    """The spans of pieces of keys in one; what is between two of them is one of value `other`."""
    starts, values = list[Array](), list[Array]()
    for before, (spans, of_spans) in zip([None, *pieces], pieces, strict=False):
        if before is not None and before[0].starts[-1] < spans.starts[0]:
            starts.append(before[0].starts[-1:])
            values.append(narrowed(np.full((len(of_spans), 1), other)))
        starts.append(spans.starts[:-1])
        values.append(of_spans)
    last, _ = pieces[-1]
    joined = np.concatenate([*starts, last.starts[-1:]])
    return _Spans(joined, last.tile), np.concatenate(values, axis=1)


def _numbers(rows: Array, keys: Array) -> tuple[Array, Array]:
    """A number for the values of each span, equal where all values are: [equalities, n] to [n]."""
    ends = [
        (min(int(f.min()), int(g.min())), max(int(f.max()), int(g.max())))
        for f, g in zip(rows, keys, strict=True)
    ]
    counts = [most - least + 1 for least, most in ends]
    if prod(counts) >= LARGEST:
        both = np.concatenate([rows, keys], axis=1)
        number = np.unique(both, axis=1, return_inverse=True)[1].reshape(-1)
        return number[: rows.shape[1]], number[rows.shape[1] :]

    def number_of(values: Array) -> Array:
        number: Array = np.zeros(values.shape[1], np.int32 if prod(counts) < 2**31 else np.int64)
        for value, (least, _), count in zip(values, ends, counts, strict=True):
            number *= count
            number += (value - np.int64(least)).astype(number.dtype)
        return number

    return (number := number_of(rows)), number if keys is rows else number_of(keys)
