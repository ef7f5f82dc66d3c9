"""The runs of a table along the other axis, in time and memory of the runs of both.

A run down a column starts where a row has a tile and the row before has not, and ends where the
next one has not: both are differences of unions of intervals, and no tile inside is looked at. Some
rows are looked at together, and what is kept of them are the columns of the ends that they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.table import Runs, RunTable, merged, table_of_runs

Array = NDArray[Any]
RUNS = 1 << 10  # looked at together, of a small table
PARTS = 32  # of a large table, one of which is looked at together


def transpose(table: RunTable, groups: int, outer: int, inner: int) -> RunTable:
    """The same tiles by inner tile: row group * inner + j has runs of outer tiles.

    Args:
        table: rows group * outer + i with runs of inner tiles.
        groups, outer, inner: how many there are of each.
    """
    most = max(RUNS, len(table.starts) // PARTS)
    return table_of_runs(groups * inner, _parts(_Turn(table, outer, inner, most), groups))


@dataclass(frozen=True)
class _Turn:
    """A table to be transposed, of which `most` runs are looked at together.

    All its rows are on one line after the other, with an empty line after each group, into which
    the last row is moved where each row is compared with the one before.
    """

    table: RunTable
    outer: int
    inner: int
    most: int

    def rows_before(self, line: Any) -> Any:
        """How many rows are on the lines before."""
        return line - line // (self.outer + 1)

    def runs_before(self, lines: Array) -> Array:
        """How many runs are on the lines before each."""
        return np.asarray(self.table.offsets[self.rows_before(lines)], np.int64)

    def runs_of(self, lines: slice, full: bool) -> tuple[Array, Array, Array]:
        """Line, start and stop of the runs of one state, ascending."""
        table = self.table
        rows = slice(*(int(self.rows_before(line)) for line in (lines.start, lines.stop)))
        runs = slice(int(table.offsets[rows.start]), int(table.offsets[rows.stop]))
        counts = np.diff(table.offsets[rows.start : rows.stop + 1])
        row = np.repeat(np.arange(rows.start, rows.stop), counts)
        kept = (np.arange(runs.start, runs.stop) < table.full_ends[row]) == full
        row = row[kept]
        return row + row // self.outer, table.starts[runs][kept], table.stops[runs][kept]

    def ends(self, lines: slice, full: bool) -> Iterator[Array]:
        """The tiles of some lines where runs of one state start down a column, and where they end.

        They are counted through all lines, and ascend.
        """
        above = max(lines.start - 1, 0)
        line, start, stop = self.runs_of(slice(above, lines.stop), full)
        first, last = line * self.inner + start, line * self.inner + stop
        here, moved = line >= lines.start, line < lines.stop - 1
        intervals = first[here], last[here]
        before = first[moved] + self.inner, last[moved] + self.inner
        for a, b in ((intervals, before), (before, intervals)):
            yield _cells(_difference(a, b))


@dataclass(frozen=True)
class _Columns:
    """The runs of one state down some columns: those of column c are before[c] .. before[c + 1]."""

    before: Array
    starts: Array
    stops: Array

    def runs(self, columns: slice) -> tuple[Array, Array, Array]:
        """Column, start and stop of the runs of some columns."""
        counts = np.diff(self.before[columns.start : columns.stop + 1])
        column = np.repeat(np.arange(columns.start, columns.stop), counts)
        runs = slice(self.before[columns.start], self.before[columns.stop])
        return column, self.starts[runs], self.stops[runs]


def _parts(turn: _Turn, groups: int) -> Iterator[Runs]:
    """The runs down all columns, some columns at a time."""
    before = turn.runs_before(np.arange(groups + 1) * (turn.outer + 1))
    for some in _slices(before, turn.most):
        states = [_columns_of(turn, some, full) for full in (True, False)]
        for columns in _slices(states[0].before + states[1].before, turn.most):
            parts = [state.runs(columns) for state in states]
            row, start, stop = (np.concatenate(x) for x in zip(*parts, strict=True))
            full = np.arange(len(row)) < len(parts[0][0])
            yield merged(row + some.start * turn.inner, start, stop, full)


def _columns_of(turn: _Turn, groups: slice, full: bool) -> _Columns:
    """The runs of one state down the columns of some groups."""
    first, count = groups.start * (turn.outer + 1), (groups.stop - groups.start) * turn.inner
    last = groups.stop * (turn.outer + 1)
    before = turn.runs_before(np.arange(first, last + 1))
    column_type = np.min_scalar_type(count)  # short integers are sorted several times as fast
    ends = [(list[Array](), list[Array]()) for _ in range(2)]
    for lines in _slices(before - before[0], turn.most):
        of_lines = slice(lines.start + first, lines.stop + first)
        for cells, (columns, rows) in zip(turn.ends(of_lines, full), ends, strict=True):
            line, j = np.divmod(cells, max(turn.inner, 1))
            group, i = np.divmod(line, turn.outer + 1)
            columns.append(((group - groups.start) * turn.inner + j).astype(column_type))
            rows.append(i.astype(np.int32))
    # Runs of a column are disjoint, so that the k-th start has the k-th stop.
    (counts, starts), (_, stops) = (_by_column(*x, count) for x in ends)
    return _Columns(np.append(0, np.cumsum(counts)), starts, stops)


def _by_column(columns: list[Array], rows: list[Array], count: int) -> tuple[Array, Array]:
    """How many ends each column has, and their rows, column by column. The lists are empty then."""
    column, row = np.concatenate(columns), np.concatenate(rows)
    columns.clear()
    rows.clear()
    order = np.argsort(column, kind="stable")
    row = row[order]
    del order
    return np.bincount(column, minlength=count), row


def _slices(before: Array, most: int) -> Iterator[slice]:
    """All of what has before[k] runs before it, in parts of about `most` runs each."""
    cuts = np.searchsorted(before, np.arange(most, int(before[-1]), most))
    bounds = np.unique([0, *cuts, len(before) - 1])
    return (slice(int(start), int(stop)) for start, stop in pairwise(bounds))


def _difference(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """What is in the union of intervals `a` and not in that of `b`; each is disjoint."""
    at = np.concatenate([*a, *b])
    in_a, in_b = np.zeros((2, len(at)), np.int8)
    sizes = len(a[0]), len(b[0])
    in_a[: sizes[0]], in_a[sizes[0] : 2 * sizes[0]] = 1, -1
    in_b[2 * sizes[0] : 2 * sizes[0] + sizes[1]], in_b[2 * sizes[0] + sizes[1] :] = 1, -1
    order = np.argsort(at, kind="stable")
    at = at[order]
    inside = (np.cumsum(in_a[order], dtype=np.int8) > 0) & (
        np.cumsum(in_b[order], dtype=np.int8) == 0
    )
    kept = inside[:-1] & (at[:-1] < at[1:])
    return at[:-1][kept], at[1:][kept]


def _cells(intervals: tuple[Array, Array]) -> Array:
    """Every number in disjoint intervals [first, stop)."""
    first, counts = intervals[0], intervals[1] - intervals[0]
    return np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
