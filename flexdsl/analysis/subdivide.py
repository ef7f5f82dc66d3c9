"""Recursive subdivision: which tiles are empty, partial or full, level by level.

All boxes of a level are judged in one pass; what is decided is never cut further, so the cost
follows the boundary of the mask. A tile that no proof decides is cut below its own size, with
witnesses, and only what is left is evaluated point by point: the answer equals brute force.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.domain import Truth
from flexdsl.analysis.grid import Grid, Rects, concatenate
from flexdsl.analysis.truth import Judge
from flexdsl.analysis.values import Bindings
from flexdsl.ir import Expr, evaluate

Array = NDArray[Any]

LANES = 1 << 16  # boxes judged at once
POINTS = 1 << 18  # pairs evaluated at once
LEAF = 8  # a box of at most LEAF x LEAF pairs is evaluated
WIDE_LEVEL = 4096  # a level with fewer boxes is cut by 4, since each level has a fixed cost
TILES = 1 << 12  # undecided tiles treated at once


@dataclass(frozen=True, slots=True)
class TileMap:
    """Rectangles of full tiles, and the single tiles that are partial; the rest is empty."""

    full: Rects
    partial: Rects


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


def pairs_of(tiles: Rects, grid: Grid) -> Rects:
    """Rectangles of tiles as rectangles of rows and columns, cut at the lengths."""
    height, width = grid.tile
    return Rects(
        tiles.b,
        tiles.h,
        tiles.r0 * height,
        np.minimum(tiles.r1 * height, grid.q_len),
        tiles.c0 * width,
        np.minimum(tiles.c1 * width, grid.kv_len),
    )


def map_tiles(scene: Scene) -> TileMap:
    """The state of every tile of the grid."""
    grid = scene.grid
    full: list[Rects] = []
    unknown: list[Rects] = []
    level = _roots(grid)
    size = 1 << max(grid.q_tiles - 1, grid.kv_tiles - 1, 0).bit_length()
    while len(level):
        truth = scene.truth(pairs_of(level, grid))
        full.append(level[truth.always])
        level = level[truth.maybe]
        if size == 1:
            unknown.append(level)
            break
        size = max(1, size // (4 if len(level) < WIDE_LEVEL else 2))
        level, _ = level.split(size, size)
    tiles = concatenate(unknown)
    has_true, has_false = decide(scene, pairs_of(tiles, grid))
    full.append(tiles[~has_false])
    return TileMap(concatenate(full), tiles[has_true & has_false])


def _roots(grid: Grid) -> Rects:
    """The whole grid, once for each batch and head."""
    if grid.is_empty:
        return concatenate([])
    b, h = np.divmod(np.arange(grid.batch * grid.heads, dtype=np.int64), grid.heads)
    zero = np.zeros_like(b)
    return Rects(b, h, zero, zero + grid.q_tiles, zero, zero + grid.kv_tiles)


def decide(scene: Scene, rects: Rects) -> tuple[Array, Array]:
    """Has each rectangle of pairs an allowed pair, and has it an excluded one? Exact."""
    has_true, has_false = np.zeros(len(rects), np.bool_), np.zeros(len(rects), np.bool_)
    for part in chunks(len(rects), TILES):
        _decide_part(scene, rects[part], has_true[part], has_false[part])
    return has_true, has_false


def _decide_part(scene: Scene, rects: Rects, has_true: Array, has_false: Array) -> None:
    """`decide` for one chunk, into views of its answers."""
    of = np.arange(len(rects))
    while len(rects):
        witnesses = _witnesses(scene, rects)
        has_true[of[witnesses.any(axis=1)]] = True
        has_false[of[~witnesses.all(axis=1)]] = True
        open_ = ~(has_true & has_false)[of]
        rects, of = rects[open_], of[open_]
        if not len(rects):
            return
        small = _is_leaf(rects)
        for leaf, allowed, inside in _leaves(scene, rects[small]):
            number = of[small][leaf]
            has_true[number[(allowed & inside).any(axis=(1, 2))]] = True
            has_false[number[(~allowed & inside).any(axis=(1, 2))]] = True
        rects, of = rects[~small], of[~small]
        pieces, parent = rects.split(*_next_size(rects))
        truth = scene.truth(pieces)
        of = of[parent]
        has_true[of[truth.always]] = True
        has_false[of[~truth.possible]] = True
        open_ = truth.maybe & ~(has_true & has_false)[of]
        rects, of = pieces[open_], of[open_]


def _is_leaf(rects: Rects) -> Array:
    return np.asarray((rects.r1 - rects.r0 <= LEAF) & (rects.c1 - rects.c0 <= LEAF))


def _next_size(rects: Rects) -> tuple[int, int]:
    """A quarter of the largest rectangle, in each direction, but no less than a leaf."""
    height = int((rects.r1 - rects.r0).max(initial=1))
    width = int((rects.c1 - rects.c0).max(initial=1))
    return max(LEAF, -(-height // 4)), max(LEAF, -(-width // 4))


def _witnesses(scene: Scene, rects: Rects) -> Array:
    """The mask at the corners and the middle of each rectangle: [n, 5]."""
    middle_r, middle_c = (rects.r0 + rects.r1) // 2, (rects.c0 + rects.c1) // 2
    last_r, last_c = rects.r1 - 1, rects.c1 - 1
    rows = np.stack([rects.r0, rects.r0, last_r, last_r, middle_r], axis=1)
    columns = np.stack([rects.c0, last_c, rects.c0, last_c, middle_c], axis=1)
    return scene.evaluate(rects.b[:, None], rects.h[:, None], rows, columns)


def _leaves(scene: Scene, rects: Rects) -> Iterator[tuple[slice, Array, Array]]:
    """The mask on all pairs of leaves, POINTS at a time."""
    for part in chunks(len(rects), POINTS // LEAF**2):
        yield part, *scene.cells(rects[part])


def count(scene: Scene, rects: Rects) -> int:
    """Allowed pairs in rectangles of pairs. Exact."""
    total = 0
    for part in chunks(len(rects), TILES):
        level = rects[part]
        while len(level):
            truth = scene.truth(level)
            total += int(level[truth.always].area.sum())
            level = level[truth.maybe]
            small = _is_leaf(level)
            for _, allowed, inside in _leaves(scene, level[small]):
                total += int(np.count_nonzero(allowed & inside))
            level = level[~small]
            level, _ = level.split(*_next_size(level))
    return total
