"""Exact facts about a mask that need more than its tiles: allowed pairs, rows without a key.

Both are found from the runs of a plan: full tiles count by their area, partial ones are subdivided
and evaluated. No array has more than a bounded number of pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis import join, toeplitz
from flexdsl.analysis.grid import Rects
from flexdsl.analysis.scene import Scene, chunks
from flexdsl.analysis.subdivide import CROWD, count, pairs_of
from flexdsl.analysis.table import RunTable

Array = NDArray[Any]


def tiles_of(table: RunTable, scene: Scene, full: bool) -> Rects:
    """The full (or partial) runs of a table whose outer tiles are q tiles, one rectangle a run."""
    chosen = table.full_runs() == full
    outer, row = scene.grid.q_tiles, table.row_of_runs()[chosen]
    b, rest = np.divmod(row, scene.grid.heads * outer)
    h, i = np.divmod(rest, outer)
    starts, stops = table.starts[chosen], table.stops[chosen]
    return Rects(b, h, i, i + 1, starts.astype(np.int64), stops.astype(np.int64))


def count_pairs(table: RunTable, scene: Scene) -> int:
    """Allowed pairs of the batches and heads that the mask tells apart."""
    of_difference = toeplitz.of_difference(scene.expr)
    if of_difference is not None:
        return toeplitz.count_by_difference(scene, of_difference)
    if int((table.stops - table.starts)[~table.full_runs()].sum()) > CROWD * table.rows:
        joined = join.count_joined(scene)
        if joined is not None:
            return joined
    full = pairs_of(tiles_of(table, scene, True), scene.grid)
    partial = pairs_of(tiles_of(table, scene, False), scene.grid)
    return int(full.area.sum()) + count(scene, partial)


def has_empty_row(table: RunTable, scene: Scene) -> bool:
    """Has some query row no allowed key?"""
    grid = scene.grid
    if grid.is_empty:
        return grid.kv_len == 0 and 0 not in (grid.q_len, grid.batch, grid.heads)
    live = np.diff(table.offsets) > 0
    if not live.all():
        return True
    without_full = np.flatnonzero(table.full_ends == table.offsets[:-1])
    for part in chunks(len(without_full), 1 << 10):
        if _any_empty(table, scene, without_full[part]):
            return True
    return False


def _any_empty(table: RunTable, scene: Scene, rows: Array) -> bool:
    """Has one of these table rows, all of whose runs are partial, a query row without a key?"""
    height, width = scene.grid.tile
    b, rest = np.divmod(rows, scene.grid.heads * scene.grid.q_tiles)
    h, i = np.divmod(rest, scene.grid.q_tiles)
    query = i[:, None] * height + np.arange(height)
    waiting = query < scene.grid.q_len
    run, tile = table.offsets[rows].astype(np.int64), table.starts[table.offsets[rows]]
    # Tile after tile of each row, the query rows that have no key yet; most find one at once.
    while waiting.any():
        if (waiting.any(axis=1) & (run >= table.offsets[rows + 1])).any():
            return True
        k, r = np.nonzero(waiting)
        for part in chunks(len(k), 1 << 11):
            at, row = k[part], r[part]
            columns = tile[at].astype(np.int64)[:, None] * width + np.arange(width)
            inside = columns < scene.grid.kv_len
            columns = np.minimum(columns, scene.grid.kv_len - 1)
            allowed = scene.evaluate(
                b[at][:, None], h[at][:, None], query[at, row][:, None], columns
            )
            waiting[at, row] = ~(allowed & inside).any(axis=1)
        tile = tile + 1
        ended = tile >= table.stops[np.minimum(run, len(table.stops) - 1)]
        run = run + ended
        tile = np.where(ended, table.starts[np.minimum(run, len(table.starts) - 1)], tile)
    return False
