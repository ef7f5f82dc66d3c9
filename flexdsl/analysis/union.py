"""The table of `a or b or ...` from those of its parts, where some of them are easy apart.

Global tokens are whole rows and whole columns of tiles; random blocks are equal values, which a
join finds. Boxes that hold all of them at once are undecided nearly everywhere, while each part has
few tiles. A tile that is live in one part has the state that it has there, and one that is full in
a part is full; what several parts share is evaluated on the whole mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.block_grid import block_of
from flexdsl.analysis.equal_runs import joined_table
from flexdsl.analysis.grid import Grid, Rects
from flexdsl.analysis.scene import Scene, chunks
from flexdsl.analysis.subdivide import MANY, decide_tiles, first_row, warn_of_cost
from flexdsl.analysis.table import Runs, RunTable, make_table, merged, table_of_runs
from flexdsl.analysis.truth import flatten
from flexdsl.analysis.values import specialise
from flexdsl.ir import Expr, Op, apply, const

Array = NDArray[Any]
POSITIONS = 1 << 13  # of an axis, evaluated at once
LOOKS = 1 << 24  # at positions of axes: with more of them proofs are faster
RUNS = 5 << 8  # of all parts, overlaid at once


def united_table(scene: Scene, planned: Callable[[Scene, Expr], RunTable]) -> RunTable | None:
    """The runs of kv tiles of every q tile; None where no part of the mask is easy apart.

    Args:
        planned: makes the table of the parts that are not, or of as much of it as is needed where
            a condition holds.
    """
    grid = scene.grid
    looks = (grid.q_len + grid.kv_len) * len(np.unique(scene.like_groups))
    if scene.expr.op is not Op.OR or grid.is_empty or looks > LOOKS:
        return None
    tables = _tables_of_parts(scene, planned)
    if not tables:
        return None
    return table_of_runs(grid.batch * grid.heads * grid.q_tiles, _united(tables, scene))


def _tables_of_parts(scene: Scene, planned: Callable[[Scene, Expr], RunTable]) -> list[RunTable]:
    """The tables of which the whole one is the union; none where no part is easy apart."""
    rest: list[Expr] = []
    rows, columns, tables = list[Expr](), list[Expr](), list[RunTable]()
    for part in flatten(scene.expr):
        axes = part.variables & {"q", "kv"}
        of_part = rows if axes == {"q"} else columns if axes == {"kv"} else rest
        # Where no captured tensor tells where a part holds, it is seldom hard to prove.
        joined = joined_table(replace(scene, expr=part)) if part.loads else None
        if joined is None:
            of_part.append(part)
        else:
            tables.append(joined)
    if not (rows or columns or tables):
        return []
    if rows:
        tables.append(_of_axis(replace(scene, expr=_either(rows)), "q"))
    if columns:
        tables.append(_of_axis(replace(scene, expr=_either(columns)), "kv"))
    if rest:
        elsewhere = apply(Op.NOT, _either(rows + columns))
        tables.append(planned(replace(scene, expr=_either(rest)), elsewhere))
    return tables


def _either(parts: list[Expr]) -> Expr:
    return reduce(lambda a, b: apply(Op.OR, a, b), parts, const(False))


def _of_axis(scene: Scene, axis: str) -> RunTable:
    """The table of a condition on one axis: its rows of tiles, or its columns, from end to end."""
    grid = scene.grid
    outer = axis == "q"
    some, all_ = (x.reshape(-1) for x in _on_axis(scene, axis))
    live = np.flatnonzero(some)
    if outer:
        row, start, stop = live, np.zeros_like(live), np.full_like(live, grid.kv_tiles)
        return make_table(len(some), row, start, stop, all_[live])
    group, tile = np.divmod(live, grid.kv_tiles)
    columns = make_table(grid.batch * grid.heads, group, tile, tile + 1, all_[live])
    return columns.chosen(np.repeat(np.arange(columns.rows), grid.q_tiles))


def _on_axis(scene: Scene, axis: str) -> tuple[Array, Array]:
    """Is the condition true somewhere in a tile, and everywhere? bool [groups, tiles] each."""
    grid = scene.grid
    length, size = (grid.q_len, grid.tile[0]) if axis == "q" else (grid.kv_len, grid.tile[1])
    some, all_ = np.zeros((2, grid.batch * grid.heads, -(-length // size)), np.bool_)
    step = gcd(size, grid.q_offset) if axis == "q" else size
    step = block_of(specialise(scene.expr, scene.bindings), axis, step)
    nowhere, together = np.zeros(1, np.int64), max(1, POSITIONS * step // size)
    for group in np.unique(scene.like_groups):
        b, h = divmod(int(group), grid.heads)
        for tiles in chunks(some.shape[1], together):
            along = np.arange(tiles.start * size, min(tiles.stop * size, length), step)
            rows, columns = (along, nowhere) if axis == "q" else (nowhere, along)
            value = scene.evaluate(np.asarray(b), np.asarray(h), rows, columns)
            starts = np.arange(0, len(along), size // step)
            some[group, tiles] = np.logical_or.reduceat(value, starts)
            all_[group, tiles] = np.logical_and.reduceat(value, starts)
    return some[scene.like_groups], all_[scene.like_groups]


def _united(tables: list[RunTable], scene: Scene) -> Iterator[Runs]:
    """The runs of the whole mask from the tables of its parts, some rows at a time.

    The list is empty in the end: the table of all is made without them.
    """
    rows = tables[0].rows
    shared, is_told = 0, False
    for first, stop in pairwise(_bounds(tables)):
        sure, rects = _parted(
            [table.chosen(np.arange(first, stop)) for table in tables], first, scene
        )
        shared += len(rects)
        if not is_told and shared * rows > MANY * stop:
            is_told = True
            warn_of_cost(scene, shared * rows / stop)
        yield _with_shared(sure, rects, scene)
        del sure, rects  # before the next ones are made
    tables.clear()


def _parted(tables: list[RunTable], first: int, scene: Scene) -> tuple[Runs, Rects]:
    """The runs that one part of the mask decides, or a full one; and the single tiles of others.

    Args:
        first: the number of the first row of these tables.
    """
    row, start, end, live, full = _overlaid(tables, scene.grid)
    unsure = (live > 1) & ~full
    rects = _tiles_of(row[unsure] + first, start[unsure], end[unsure], scene.grid)
    return (row[~unsure] + first, start[~unsure], end[~unsure], full[~unsure]), rects


def _bounds(tables: list[RunTable]) -> Array:
    """The rows at which parts of about RUNS runs of all tables begin, and where the last ends."""
    before = np.cumsum(sum(np.diff(table.offsets) for table in tables))
    cuts = np.searchsorted(before, np.arange(RUNS, int(before[-1]), RUNS), side="right")
    return np.unique([0, *cuts, len(before)])


def _with_shared(sure: Runs, rects: Rects, scene: Scene) -> Runs:
    """These runs, and the single tiles that several parts share, as the whole mask has them."""
    full = ~decide_tiles(scene, rects, live=True)[1]
    shared = first_row(rects, scene.grid) + rects.r0, rects.c0, rects.c1, full
    row, start, stop, full = (np.concatenate(x) for x in zip(sure, shared, strict=True))
    return merged(row, start, stop, full)


def _overlaid(tables: list[RunTable], grid: Grid) -> tuple[Array, Array, Array, Array, Array]:
    """The pieces of rows between the ends of all runs: row, start, stop, of how many parts, full.

    Of the pieces that are of none there is none.
    """
    width = grid.kv_tiles + 1
    at, *steps = (np.concatenate(x) for x in zip(*_ends(tables, width), strict=True))
    order = np.argsort(at, kind="stable")
    at = at[order]
    live, full = (np.cumsum(step[order], dtype=np.int32) for step in steps)
    some = np.flatnonzero((live[:-1] > 0) & (at[:-1] < at[1:]))
    row, start = np.divmod(at[some], width)
    return row, start, start + at[some + 1] - at[some], live[some], full[some] > 0


def _ends(tables: list[RunTable], width: int) -> Iterator[tuple[Array, Array, Array]]:
    """Where runs begin and end, counted through all rows; and by how much more runs, and full ones,
    there are from there on: 1, 0 or -1.
    """
    for table in tables:
        first = table.row_of_runs() * width
        full = table.full_runs().astype(np.int8)
        one = np.ones_like(full)
        at = np.concatenate([first + table.starts, first + table.stops])
        yield at, np.concatenate([one, -one]), np.concatenate([full, -full])


def _tiles_of(row: Array, start: Array, stop: Array, grid: Grid) -> Rects:
    """The single tiles of runs."""
    group, i = np.divmod(row, grid.q_tiles)
    b, h = np.divmod(group, grid.heads)
    return Rects(b, h, i, i + 1, start, stop).split(1, 1)[0]
