"""The table of a mask that is nothing but equalities `f(q) == g(kv)`, by joining runs of values.

Windows of an image, documents without an order, random blocks: an interval of values tells little
of them. Positions that follow on each other and have one value are one run, and runs of equal
values are joined, so the cost follows the pairs of runs. They are disjoint, so that a tile is full
if their areas in it fill it. No pair is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.grid import Grid
from flexdsl.analysis.join import AXES, FEW, join_of, sides_of, values_of
from flexdsl.analysis.scene import Scene, chunks
from flexdsl.analysis.table import RunTable, make_table
from flexdsl.analysis.truth import flatten
from flexdsl.ir import Expr, Op

Array = NDArray[Any]
POSITIONS = 1 << 14  # of an axis, evaluated at once
LOOKS = 1 << 24  # at values of all positions
LARGEST = 2**62  # of a number that stands for the values of several equalities


def joined_table(scene: Scene) -> RunTable | None:
    """The runs of kv tiles of every q tile.

    None where the mask is something else besides, or where so many values are equal, or there are
    so many positions, that proofs are faster.
    """
    parts = flatten(scene.expr) if scene.expr.op is Op.AND else [scene.expr]
    sides = [both for both in map(sides_of, parts) if both is not None]
    grid = scene.grid
    looks = (grid.q_len + grid.kv_len) * grid.batch * grid.heads * len(sides)
    if len(sides) < len(parts) or grid.is_empty or looks > LOOKS:
        return None
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for group in np.ndindex(grid.batch, grid.heads):
        rows, keys = (
            _spans(scene, [side[k] for side in sides], axis, group) for k, axis in enumerate(AXES)
        )
        of_rows, of_keys = _keys(rows.values, keys.values)
        join = join_of(of_rows, of_keys)
        if join.pairs > FEW * (len(of_rows) + len(of_keys)):
            return None
        first = (group[0] * grid.heads + group[1]) * grid.q_tiles
        for row, key in join:
            number = (first + rows.tiles[row]) * grid.kv_tiles + keys.tiles[key]
            found.append(_summed(number, rows.lengths[row] * keys.lengths[key]))
    number, area = (np.concatenate(x) for x in zip(*found, strict=True))
    return _table(number, area, grid)


def _table(number: Array, area: Array, grid: Grid) -> RunTable:
    """The table of tiles by their numbers, of which pieces of these areas are allowed."""
    number, area = _summed(number, area)
    row, tile = np.divmod(number, grid.kv_tiles)
    height = np.minimum(grid.q_len - row % grid.q_tiles * grid.tile[0], grid.tile[0])
    width = np.minimum(grid.kv_len - tile * grid.tile[1], grid.tile[1])
    rows = grid.batch * grid.heads * grid.q_tiles
    return make_table(rows, row, tile, tile + 1, area == height * width)


def _summed(number: Array, area: Array) -> tuple[Array, Array]:
    """Each number once, ascending, with the sum of its areas."""
    unique, of = np.unique(number, return_inverse=True)
    return unique, np.bincount(of, area, len(unique)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Spans:
    """Runs of positions with equal values, none of which reaches into another tile.

    Attributes:
        values: int64 [equalities, n].
        lengths, tiles: int64 [n].
    """

    values: Array
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
    return _Spans(np.concatenate(values, axis=1), np.diff(start, append=length), start // size)


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
