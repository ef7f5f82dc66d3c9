"""The runs table: for each outer tile the runs of inner tiles that are full or partial, in CSR.

A table is built from rectangles of tiles or from the bounds of a closed form; building proves
nothing, it only sorts and joins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.grid import Rects
from flexdsl.analysis.subdivide import TileMap

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class RunTable:
    """Runs [start, stop) of inner tiles. Row (b * heads + h) * outer_tiles + i.

    Attributes:
        offsets: int32 [rows + 1]; runs offsets[r] .. offsets[r + 1] belong to row r.
        full_ends: int32 [rows]; runs offsets[r] .. full_ends[r] are full, the others partial.
        starts, stops: int32 [runs]; ascending and disjoint among the full ones of a row, and among
            its partial ones.
    """

    offsets: Array
    full_ends: Array
    starts: Array
    stops: Array

    @property
    def nbytes(self) -> int:
        """Bytes of the four arrays."""
        arrays = (self.offsets, self.full_ends, self.starts, self.stops)
        return int(sum(a.nbytes for a in arrays))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.full_ends)

    def row_of_runs(self) -> Array:
        """The row of each run."""
        return np.repeat(np.arange(self.rows), np.diff(self.offsets))

    def full_runs(self) -> Array:
        """Is each run full? bool [runs]."""
        return np.asarray(np.arange(len(self.starts)) < self.full_ends[self.row_of_runs()])

    def runs(self, row: int) -> list[tuple[int, int, bool]]:
        """(start, stop, full) of a row, ascending."""
        first, last = int(self.offsets[row]), int(self.offsets[row + 1])
        full = int(self.full_ends[row])
        found = [(int(self.starts[k]), int(self.stops[k]), k < full) for k in range(first, last)]
        return sorted(found)


# Most runs of a row, and of all rows, of a table that a kernel makes: nobody on the host knows how
# many it will have. A row whose runs do not fit ends in one long partial run.
MOST_RUNS_OF_ROW = 512
MOST_RUNS = 1 << 26


@dataclass(frozen=True, slots=True)
class Room:
    """Room for a table whose runs are not known yet.

    Attributes:
        rows: number of rows.
        runs_of_row: runs that a row may have.
    """

    rows: int
    runs_of_row: int

    @property
    def runs(self) -> int:
        """Runs that all rows may have."""
        return self.rows * self.runs_of_row

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of a `RunTable` with this room."""
        return 4 * (2 * self.rows + 1 + 2 * self.runs)


def room_for(rows: int, inner: int) -> Room:
    """Room for `rows` rows of `inner` tiles: for every table, where a row has few enough tiles."""
    most = min(inner, MOST_RUNS_OF_ROW, MOST_RUNS // max(rows, 1))
    return Room(rows, max(most, 1))


def make_table(rows: int, row: Array, start: Array, stop: Array, full: Array) -> RunTable:
    """The table of disjoint runs in any order; runs of one state that touch become one."""
    order = np.lexsort((start, ~full, row))
    row, start, stop, full = row[order], start[order], stop[order], full[order]
    opens = np.ones(len(row), np.bool_)
    opens[1:] = (row[1:] != row[:-1]) | (full[1:] != full[:-1]) | (start[1:] != stop[:-1])
    last = np.append(opens[1:], True) if len(row) else opens
    row, start, full, stop = row[opens], start[opens], full[opens], stop[last]
    counts = np.bincount(row, minlength=rows)
    full_counts = np.bincount(row[full], minlength=rows)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return RunTable(
        offsets.astype(np.int32),
        (offsets[:-1] + full_counts).astype(np.int32),
        start.astype(np.int32),
        stop.astype(np.int32),
    )


def table_of_map(tiles: TileMap, batch: int, heads: int, outer: int, swap: bool) -> RunTable:
    """The table of a tile map.

    Args:
        outer: number of outer tiles.
        swap: kv tiles are the outer ones.
    """
    parts = [_rows_of(rects, heads, outer, swap) for rects in (tiles.full, tiles.partial)]
    row, start, stop = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    full = np.arange(len(row)) < len(parts[0][0])
    return make_table(batch * heads * outer, row, start, stop, full)


def _rows_of(rects: Rects, heads: int, outer: int, swap: bool) -> tuple[Array, Array, Array]:
    """One run for each outer tile of each rectangle: row, start, stop."""
    first, last, start, stop = rects.r0, rects.r1, rects.c0, rects.c1
    if swap:
        first, last, start, stop = start, stop, first, last
    heights = last - first
    of = np.repeat(np.arange(len(rects)), heights)
    within = np.arange(len(of)) - np.repeat(np.cumsum(heights) - heights, heights)
    row = (rects.b[of] * heads + rects.h[of]) * outer + first[of] + within
    return row, start[of], stop[of]
