"""The runs of a table along the other axis, in time and memory of the runs of both.

A run down a column starts where a row has a tile and the row before has not, and ends where the
next one has not: both are differences of unions of intervals, and no tile inside is looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.table import RunTable, make_table

Array = NDArray[Any]


def transpose(table: RunTable, groups: int, outer: int, inner: int) -> RunTable:
    """The same tiles by inner tile: row group * inner + j has runs of outer tiles.

    Args:
        table: rows group * outer + i with runs of inner tiles.
        groups, outer, inner: how many there are of each.
    """
    parts = [_runs_down(table, full, outer, inner) for full in (True, False)]
    row, start, stop = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    full = np.arange(len(row)) < len(parts[0][0])
    return make_table(groups * inner, row, start, stop, full)


def _runs_down(table: RunTable, full: bool, outer: int, inner: int) -> tuple[Array, Array, Array]:
    """Row, start and stop of the runs of one state along the other axis."""
    chosen = table.full_runs() == full
    group, i = np.divmod(table.row_of_runs()[chosen], max(outer, 1))
    # All rows on one line, with an empty one after each group, into which its last row is moved.
    line = (group * (outer + 1) + i) * inner
    first, stop = line + table.starts[chosen], line + table.stops[chosen]
    order = np.argsort(first)
    here, above = (first[order], stop[order]), (first[order] + inner, stop[order] + inner)
    starts, stops = _cells(_difference(here, above)), _cells(_difference(above, here))
    found = []
    for cells in (starts, stops):
        row, j = np.divmod(cells, max(inner, 1))
        group, i = np.divmod(row, outer + 1)
        order = np.lexsort((i, group * inner + j))
        found.append(((group * inner + j)[order], i[order]))
    # Runs of a column are disjoint, so that the k-th start has the k-th stop.
    return found[0][0], found[0][1], found[1][1]


def _difference(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """What is in the union of intervals `a` and not in that of `b`; each is disjoint."""
    at = np.concatenate([*a, *b])
    in_a, in_b = np.zeros((2, len(at)), np.int8)
    sizes = len(a[0]), len(b[0])
    in_a[: sizes[0]], in_a[sizes[0] : 2 * sizes[0]] = 1, -1
    in_b[2 * sizes[0] : 2 * sizes[0] + sizes[1]], in_b[2 * sizes[0] + sizes[1] :] = 1, -1
    order = np.argsort(at, kind="stable")
    at = at[order]
    inside = (np.cumsum(in_a[order]) > 0) & (np.cumsum(in_b[order]) == 0)
    kept = inside[:-1] & (at[:-1] < at[1:])
    return at[:-1][kept], at[1:][kept]


def _cells(intervals: tuple[Array, Array]) -> Array:
    """Every number in disjoint intervals [first, stop)."""
    first, counts = intervals[0], intervals[1] - intervals[0]
    return np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
