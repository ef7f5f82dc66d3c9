"""Recursive subdivision: which tiles are empty, partial or full, level by level.

All boxes of a level are judged in one pass; what is decided is never cut further, so the cost
follows the boundary of the mask. A tile that no proof decides is cut below its own size, with
witnesses, and only what is left is evaluated point by point: the answer equals brute force.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.grid import Grid, Rects, concatenate
from flexdsl.analysis.join import live_tiles
from flexdsl.analysis.scene import POINTS, Scene, chunks
from flexdsl.errors import CostWarning
from flexdsl.ir import print_expr

Array = NDArray[Any]

LONG = 200  # characters of a mask in a message
BYTES_OF_TILE = 6 * 8  # of one rectangle
LEAF = 8  # a box of at most LEAF x LEAF pairs is evaluated
WIDE_LEVEL = 4096  # a level with fewer boxes is cut by 4, since each level has a fixed cost
CROWD = 16  # boxes of a level for each of its rows and columns: the mask has pairs everywhere
MANY = 1 << 20  # undecided boxes of a level, of which a user is told
TILES = 1 << 12  # undecided tiles treated at once


@dataclass(frozen=True, slots=True)
class TileMap:
    """Rectangles of full tiles, and the single tiles that are partial; the rest is empty."""

    full: Rects
    partial: Rects


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
    level = _roots(grid)
    size = 1 << max(grid.q_tiles - 1, grid.kv_tiles - 1, 0).bit_length()
    may_join = may_warn = True
    while len(level):
        truth = scene.truth(pairs_of(level, grid))
        full.append(level[truth.always])
        level = level[truth.maybe]
        if may_warn and len(level) > MANY:
            may_warn = False
            _warn_of_cost(scene, level)
        if size == 1:
            break
        if may_join and len(level) > CROWD * _rows_of_level(grid, size):
            may_join = False
            live = live_tiles(scene)
            if live is not None:
                return _map_of_live(scene, _tiles_of(live, grid))
        size = max(1, size // (4 if len(level) < WIDE_LEVEL else 2))
        level, _ = level.split(size, size)
    has_true, has_false = decide(scene, pairs_of(level, grid))
    full.append(level[~has_false])
    return TileMap(concatenate(full), level[has_true & has_false])


def _warn_of_cost(scene: Scene, level: Rects) -> None:
    """Say, before it is spent, what a mask costs that proofs leave open nearly everywhere."""
    tiles = int(level.area.sum())
    pairs = tiles * scene.grid.tile[0] * scene.grid.tile[1]
    words = print_expr(scene.expr)
    words = words if len(words) < LONG else f"{words[:LONG]} ..."
    warnings.warn(
        f"no rule decides the mask {words} on {tiles} tiles of {scene.grid.tile}: up to"
        f" {pairs:.2g} pairs are evaluated for its plan, and the tiles take up to"
        f" {tiles * BYTES_OF_TILE / 2**20:.0f} MiB. Larger tiles, a shorter sequence, or"
        " comparisons of q with kv that are intervals take less.",
        CostWarning,
        stacklevel=2,
    )


def _rows_of_level(grid: Grid, size: int) -> int:
    """Boxes of `size` tiles along both axes, of all batches and heads."""
    return grid.batch * grid.heads * (-(-grid.q_tiles // size) + -(-grid.kv_tiles // size))


def _tiles_of(numbers: Array, grid: Grid) -> Rects:
    """Single tiles by their numbers, as `join.live_tiles` counts them."""
    row, j = np.divmod(numbers, grid.kv_tiles)
    group, i = np.divmod(row, grid.q_tiles)
    b, h = np.divmod(group, grid.heads)
    return Rects(b, h, i, i + 1, j, j + 1)


def _map_of_live(scene: Scene, tiles: Rects) -> TileMap:
    """The map where these tiles have an allowed pair, and no other has."""
    pairs = pairs_of(tiles, scene.grid)
    unsure = ~scene.truth(pairs).always
    has_false = np.zeros(len(tiles), np.bool_)
    has_false[unsure] = decide(scene, pairs[unsure], live=True)[1]
    return TileMap(tiles[~has_false], tiles[has_false])


def _roots(grid: Grid) -> Rects:
    """The whole grid, once for each batch and head."""
    if grid.is_empty:
        return concatenate([])
    b, h = np.divmod(np.arange(grid.batch * grid.heads, dtype=np.int64), grid.heads)
    zero = np.zeros_like(b)
    return Rects(b, h, zero, zero + grid.q_tiles, zero, zero + grid.kv_tiles)


def decide(scene: Scene, rects: Rects, live: bool = False) -> tuple[Array, Array]:
    """Has each rectangle of pairs an allowed pair, and has it an excluded one? Exact.

    Args:
        live: it is known that each has an allowed pair.
    """
    has_true, has_false = np.full(len(rects), live), np.zeros(len(rects), np.bool_)
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
