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
from math import prod
from operator import and_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.bands import Band, band_of
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.join import FEW, Join, join_of, sides_of, values_of
from flexdsl.analysis.scene import Scene, chunks
from flexdsl.analysis.table import Runs, RunTable, merged, table_of_runs
from flexdsl.analysis.truth import flatten
from flexdsl.analysis.values import specialise, substitute
from flexdsl.ir import Expr, Op, var

Array = NDArray[Any]
POSITIONS = 1 << 14  # of an axis, evaluated at once
BAND = 1 << 12  # pairs of runs treated together
LOOKS = 1 << 24  # at values of all positions
LARGEST = 2**62  # of a number that stands for the values of several equalities


def joined_table(scene: Scene) -> RunTable | None:
    """The runs of kv tiles of every q tile.

    None where the mask is something else besides, or where so many values are equal, or there are
    so many positions, that proofs are faster.
    """
    parts = flatten(scene.expr) if scene.expr.op is Op.AND else [scene.expr]
    found = [sides_of(part) or band_of(specialise(part, scene.bindings)) for part in parts]
    bands = [x for x in found if isinstance(x, Band)]
    sides = [x for x in found if isinstance(x, tuple)]
    grid = scene.grid
    looks = (grid.q_len + grid.kv_len) * grid.batch * grid.heads * len(sides)
    if not sides or None in found or grid.is_empty or looks > LOOKS:
        return None
    band, alike = reduce(and_, bands, Band()), _is_alike(sides, grid)
    runs = list[Runs]()
    for group in np.ndindex(grid.batch, grid.heads):
        keys = _spans(scene, [g for _, g in sides], "kv", group)
        rows = keys if alike else _spans(scene, [f for f, _ in sides], "q", group)
        join = join_of(*_keys(rows.values, keys.values))
        if join.pairs > FEW * (len(rows.starts) + len(keys.starts)):
            return None
        first = (group[0] * grid.heads + group[1]) * grid.q_tiles
        for part in _whole_tiles(join, rows):
            number, area = _areas(join, part, rows, keys, band, grid)
            runs.append(_runs_of(number + first * grid.kv_tiles, area, grid))
    return table_of_runs(grid.batch * grid.heads * grid.q_tiles, runs)


def _whole_tiles(join: Join, rows: _Spans) -> Iterator[slice]:
    """The spans of all rows in parts that end where a tile does, of about BAND pairs each."""
    pairs = np.cumsum(join.stop - join.first)
    ends = np.flatnonzero(np.diff(rows.tiles, append=-1)) + 1  # spans up to each tile's end
    cuts = np.searchsorted(pairs[ends - 1], np.arange(BAND, int(pairs[-1]), BAND))
    for start, stop in pairwise(np.unique([0, *ends[cuts], len(rows.tiles)])):
        yield slice(start, stop)


def _areas(
    join: Join, part: slice, rows: _Spans, keys: _Spans, band: Band, grid: Grid
) -> tuple[Array, Array]:
    """The tiles of a part of the rows, by their numbers, and how many pairs each allows."""
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for row, key in Join(join.order, join.first[part], join.stop[part]):
        row = row + part.start
        where = rows.starts[row] + grid.q_offset, rows.lengths[row], keys.starts[key]
        area = band.pairs(*where, keys.lengths[key])
        some = area > 0
        number = rows.tiles[row[some]] * grid.kv_tiles + keys.tiles[key[some]]
        found.append(_summed(number, area[some]))
    number, area = (np.concatenate(x) for x in zip(*found, strict=True))
    return _summed(number, area)


def _is_alike(sides: list[tuple[Expr, Expr]], grid: Grid) -> bool:
    """Do rows and keys have the same values in the same tiles, as documents' have?"""
    same = grid.q_len == grid.kv_len and grid.tile[0] == grid.tile[1] and not grid.q_offset
    return same and all(substitute(f, {var("q"): var("kv")}) is g for f, g in sides)


def _runs_of(number: Array, area: Array, grid: Grid) -> Runs:
    """The runs of tiles, by their numbers in ascending order, that allow so many pairs."""
    row, tile = np.divmod(number, grid.kv_tiles)
    height = np.minimum(grid.q_len - row % grid.q_tiles * grid.tile[0], grid.tile[0])
    width = np.minimum(grid.kv_len - tile * grid.tile[1], grid.tile[1])
    return merged(row, tile, tile + 1, area == height * width)


def _summed(number: Array, area: Array) -> tuple[Array, Array]:
    """Each number once, ascending, with the sum of its areas."""
    unique, of = np.unique(number, return_inverse=True)
    return unique, np.bincount(of, area, len(unique)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Spans:
    """Runs of positions with equal values, none of which reaches into another tile.

    Attributes:
        values: int64 [equalities, n].
        starts, lengths, tiles: int64 [n]; an index, a number of positions, a tile.
    """

    values: Array
    starts: Array
    lengths: Array
    tiles: Array


def _spans(scene: Scene, sides: list[Expr], axis: str, group: tuple[int, ...]) -> _Spans:
    """The spans of an axis, a chunk after the other: what is kept are the spans alone."""
    grid = scene.grid
    length, size = (grid.q_len, grid.tile[0]) if axis == "q" else (grid.kv_len, grid.tile[1])
    starts, values = list[Array](), list[Array]()
    for part in chunks(length, max(size, POSITIONS // size * size)):
        here = np.stack(
            [values_of(scene, side, axis, (group[0], group[1]), part) for side in sides]
        )
        opens = np.append(True, (here[:, 1:] != here[:, :-1]).any(axis=0))
        opens[::size] = True
        starts.append(np.flatnonzero(opens) + part.start)
        values.append(here[:, opens].astype(np.int64))
    start = np.concatenate(starts)
    lengths = np.diff(start, append=length)
    return _Spans(np.concatenate(values, axis=1), start, lengths, start // size)


def _keys(rows: Array, keys: Array) -> tuple[Array, Array]:
    """A number for the values of each span, equal where all values are: [equalities, n] to [n]."""
    both = np.concatenate([rows, keys], axis=1)
    low, high = both.min(axis=1), both.max(axis=1)
    counts = [int(most) - int(least) + 1 for least, most in zip(low, high, strict=True)]
    if prod(counts) < LARGEST:
        places = np.array([prod(counts[k + 1 :]) for k in range(len(counts))])
        number = ((both - low[:, None]) * places[:, None]).sum(axis=0)
    else:
        number = np.unique(both, axis=1, return_inverse=True)[1].reshape(-1)
    return number[: rows.shape[1]], number[rows.shape[1] :]
