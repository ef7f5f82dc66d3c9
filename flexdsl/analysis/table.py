"""The runs table: for each outer tile the runs of inner tiles that are full or partial, in CSR.

A table is built from rectangles of tiles or from the bounds of a closed form; building proves
nothing, it only sorts and joins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.grid import Grid, Rects, numbered
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.subdivide import TileMap, first_row

Array = NDArray[Any]
SUBDIVIDED = "by subdivision of the tile grid"
OF_FORM = "of a closed form, for kernels that read a table"


@dataclass(frozen=True, eq=False)
class RunTable:
    """Runs [start, stop) of inner tiles. Row (b * heads + h) * outer_tiles + i.

    Attributes:
        offsets: int32 [rows + 1]; runs offsets[r] .. offsets[r + 1] belong to row r.
        full_ends: int32 [rows]; runs offsets[r] .. full_ends[r] are full, the others partial.
        starts, stops: int32 [runs]; ascending and disjoint among the full ones of a row, and among
            its partial ones.
        made: how it was found, in words.
    """

    offsets: Array
    full_ends: Array
    starts: Array
    stops: Array
    made: str = SUBDIVIDED

    @property
    def nbytes(self) -> int:
        """Bytes of the four arrays."""
        arrays = (self.offsets, self.full_ends, self.starts, self.stops)
        return int(sum(a.nbytes for a in arrays))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.full_ends)

    def chosen(self, rows: Array) -> RunTable:
        """The table whose row r is row rows[r] of this one."""
        first, counts = self.offsets[rows], np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        run = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], counts)
        full_ends = self.full_ends[rows] - first + offsets[:-1]
        return RunTable(
            offsets.astype(np.int32), full_ends.astype(np.int32), self.starts[run], self.stops[run]
        )

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


Runs = tuple[Array, Array, Array, Array]  # row, start, stop, and is it full?


def make_table(rows: int, row: Array, start: Array, stop: Array, full: Array) -> RunTable:
    """The table of disjoint runs in any order; runs of one state that touch become one."""
    return table_of_runs(rows, [merged(row, start, stop, full)])


def merged(row: Array, start: Array, stop: Array, full: Array) -> Runs:
    """Runs in the order of a table, in 32 bits; those of one state that touch become one."""
    # One number for the three: sorts of it are fast, and the faster the more is in order already.
    width = int(start.max(initial=0)) + 1
    order = np.argsort((row.astype(np.int64) * 2 + ~full) * width + start, kind="stable")
    row, start, stop, full = row[order], start[order], stop[order], full[order]
    opens = np.ones(len(row), np.bool_)
    opens[1:] = (row[1:] != row[:-1]) | (full[1:] != full[:-1]) | (start[1:] != stop[:-1])
    last = np.append(opens[1:], True) if len(row) else opens
    row, start, stop = (x.astype(np.int32) for x in (row[opens], start[opens], stop[last]))
    return row, start, stop, full[opens]


def table_of_runs(rows: int, parts: Iterable[Runs]) -> RunTable:
    """The table of merged runs whose rows ascend from part to part. Of a part no more is kept."""
    counts, full_counts = np.zeros((2, rows), np.int32)
    starts, stops = list[Array](), list[Array]()
    for row, start, stop, full in parts:
        starts.append(start)
        stops.append(stop)
        if len(row):
            within = slice(row[0], row[-1] + 1)
            counts[within] += np.bincount(row - row[0]).astype(np.int32)
            size = within.stop - within.start
            full_counts[within] += np.bincount(row[full] - row[0], minlength=size).astype(np.int32)
        del row, full  # before the next part is made
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return RunTable(offsets, offsets[:-1] + full_counts, _drained(starts), _drained(stops))


def _drained(parts: list[Array]) -> Array:
    """All parts in one, of which the list keeps none."""
    joined = np.concatenate([np.zeros(0, np.int32), *parts])
    parts.clear()
    return joined


def stacked(tables: list[RunTable], groups: int) -> RunTable:
    """The table of rows of each group that follow on each other, in `tables` of all groups."""
    counts = np.array([table.rows // groups for table in tables])
    first = np.cumsum(counts * groups) - counts * groups
    order = [
        start + group * count + np.arange(count)
        for group in range(groups)
        for start, count in zip(first, counts, strict=True)
    ]
    runs = np.cumsum([0, *(len(table.starts) for table in tables)], dtype=np.int32)
    parts = list(zip(tables, runs[:-1], strict=True))
    joined = RunTable(
        np.concatenate([runs[:1], *(table.offsets[1:] + before for table, before in parts)]),
        np.concatenate([table.full_ends + before for table, before in parts]),
        np.concatenate([table.starts for table in tables]),
        np.concatenate([table.stops for table in tables]),
    )
    return joined if groups == 1 else joined.chosen(np.concatenate(order))


def table_of_maps(maps: Iterable[TileMap], scene: Scene) -> RunTable:
    """The table of a scene's tile map, whose bands come in the order of rows."""
    grid = scene.grid
    rows = grid.batch * grid.heads * grid.q_tiles
    return of_all_groups(table_of_runs(rows, (_runs_of(part, grid) for part in maps)), scene)


def of_all_groups(table: RunTable, scene: Scene) -> RunTable:
    """The table of which the first one alone of groups with equal masks has runs yet."""
    grid, like = scene.grid, scene.like_groups
    if (like == np.arange(len(like))).all():
        return table
    return table.chosen((like[:, None] * grid.q_tiles + np.arange(grid.q_tiles)).reshape(-1))


def _runs_of(tiles: TileMap, grid: Grid) -> Runs:
    parts = [_rows_of(rects, grid) for rects in (tiles.full, tiles.partial)]
    row, start, stop = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return merged(row, start, stop, np.arange(len(row)) < len(parts[0][0]))


def _rows_of(rects: Rects, grid: Grid) -> tuple[Array, Array, Array]:
    """One run for each row of tiles of each rectangle: row, start, stop."""
    of, within = numbered(rects.r1 - rects.r0)
    row = (first_row(rects, grid) + rects.r0)[of] + within
    return row, rects.c0[of], rects.c1[of]
