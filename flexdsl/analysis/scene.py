"""A mask on the pairs of a grid: judged on rectangles, evaluated at pairs.

Which rectangles are asked about is for the callers; nothing here subdivides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.domain import Truth
from flexdsl.analysis.grid import Grid, Rects
from flexdsl.analysis.groups import like_groups
from flexdsl.analysis.jumps import Jump, jumps_of
from flexdsl.analysis.truth import Judge
from flexdsl.analysis.values import Bindings, specialise
from flexdsl.ir import Expr, evaluate

Array = NDArray[Any]

LANES = 1 << 11  # boxes judged at once
POINTS = 1 << 15  # pairs evaluated at once


@dataclass(frozen=True, eq=False)
class Scene:
    """A mask on the pairs of a grid: judges and evaluates rectangles of rows x columns."""

    expr: Expr
    bindings: Bindings
    grid: Grid

    @cached_property
    def judge(self) -> Judge:
        """Decides the mask on boxes."""
        return Judge(self.expr, self.bindings)

    @cached_property
    def like_groups(self) -> Array:
        """For each group b * heads + h the first one with an equal mask."""
        return like_groups(self.expr, self.bindings, self.grid)

    @cached_property
    def jumps(self) -> tuple[list[Jump], list[Jump]]:
        """Where rounded numbers jump along q and along kv."""
        expr = specialise(self.expr, self.bindings)
        return jumps_of(expr, "q"), jumps_of(expr, "kv")

    def truth(self, rects: Rects) -> Truth:
        """Truth on rectangles of pairs (rows, not positions), in chunks of LANES."""
        return joined_truth([self._truth(rects[s]) for s in chunks(len(rects), LANES)])

    def _truth(self, rects: Rects) -> Truth:
        used, grid = self.expr.variables, self.grid
        axes = zip("bh", (rects.b, rects.h), strict=True)
        box = {n: (x.astype(np.int64),) * 2 for n, x in axes if n in used}
        box["q"] = _positions(rects.r0, rects.r1, grid.q_offset)
        box["kv"] = _positions(rects.c0, rects.c1, 0)
        truth = self.judge.truth(box)
        shape = (len(rects),)
        return Truth(np.broadcast_to(truth.always, shape), np.broadcast_to(truth.possible, shape))

    def evaluate(self, b: Array, h: Array, rows: Array, columns: Array) -> Array:
        """The mask at pairs, by arrays that broadcast."""
        variables = {"b": b, "h": h, "q": rows + self.grid.q_offset, "kv": columns}
        result = evaluate(self.expr, variables, self.bindings.all)
        shape = np.broadcast_shapes(b.shape, h.shape, rows.shape, columns.shape)
        return np.broadcast_to(result, shape)

    def cells(self, rects: Rects) -> tuple[Array, Array]:
        """The mask on all pairs of small rectangles, and which are in them: [n, rows, columns]."""
        rows = rects.r0[:, None] + np.arange(int((rects.r1 - rects.r0).max(initial=0)))
        columns = rects.c0[:, None] + np.arange(int((rects.c1 - rects.c0).max(initial=0)))
        rows_in = rows < rects.r1[:, None]
        columns_in = columns < rects.c1[:, None]
        inside = rows_in[:, :, None] & columns_in[:, None, :]
        rows = np.where(rows_in, rows, rects.r0[:, None])
        columns = np.where(columns_in, columns, rects.c0[:, None])
        b, h = rects.b[:, None, None], rects.h[:, None, None]
        return self.evaluate(b, h, rows[:, :, None], columns[:, None, :]), inside


def _positions(start: Array, stop: Array, offset: int) -> tuple[Array, Array]:
    """First and last position of each range [start, stop) of an axis: int64."""
    return start.astype(np.int64) + offset, stop.astype(np.int64) + (offset - 1)


def joined_truth(parts: list[Truth]) -> Truth:
    """The truths of one chunk after the other."""
    nothing = [np.zeros(0, np.bool_)]
    return Truth(
        np.concatenate(nothing + [part.always for part in parts]),
        np.concatenate(nothing + [part.possible for part in parts]),
    )


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover range(count)."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
