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

LANES = 1 << 14  # boxes judged at once
POINTS = 1 << 18  # pairs evaluated at once


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
        parts = [self._truth(rects[s]) for s in chunks(len(rects), LANES)]
        if not parts:
            nothing = np.zeros(0, np.bool_)
            return Truth(nothing, nothing)
        return Truth(
            np.concatenate([t.always for t in parts]), np.concatenate([t.possible for t in parts])
        )

    def _truth(self, rects: Rects) -> Truth:
        offset = self.grid.q_offset
        truth = self.judge.truth(
            {
                "b": (rects.b, rects.b),
                "h": (rects.h, rects.h),
                "q": (rects.r0 + offset, rects.r1 - 1 + offset),
                "kv": (rects.c0, rects.c1 - 1),
            }
        )
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


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover range(count)."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
