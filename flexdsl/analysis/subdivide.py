"""Recursive subdivision: which tiles are empty, partial or full, level by level.

The boxes of a level are judged in one pass; what is decided is never cut further, so the cost
follows the boundary of the mask. A level of many boxes goes on in bands of rows, one after the
other, so that memory does not follow it. A tile that no proof decides is cut below its own size,
with witnesses, and only what is left is evaluated point by point: the answer equals brute force.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.domain import Truth
from flexdsl.analysis.grid import Grid, Rects, concatenate
from flexdsl.analysis.join import live_tiles
from flexdsl.analysis.jumps import first_jump
from flexdsl.analysis.scene import LANES, POINTS, Scene, chunks, joined_truth
from flexdsl.errors import CostWarning
from flexdsl.ir import print_expr

Array = NDArray[Any]

LONG = 200  # characters of a mask in a message
LEAF = 8  # a box of at most LEAF x LEAF pairs is evaluated
BOXES = 896  # of a level that are cut further together, which bounds the memory
BANDS = 16  # of a level with very many boxes
WIDE_LEVEL = 512  # a level with fewer boxes is cut by 4, since each level has a fixed cost
CROWD = 16  # boxes of a level for each of its rows and columns: the mask has pairs everywhere
MANY = 1 << 20  # undecided tiles that are expected, of which a user is told
TILES = 1 << 11  # undecided tiles treated at once
# Where a rectangle is looked at, as fractions of its height and width: in all pairs of a row and a
# column, since most of a mask knows one of them alone, and is worked out once for each.
CORNERS = np.array([[0, 0.5, 1], [0, 0.5, 1]])
# Points that leave no part of a rectangle out: multiples of the powers of 1 / 1.3247, the root of
# x**3 = x + 1 (Roberts 2018, "The Unreasonable Effectiveness of Quasirandom Sequences").
SPREAD = 1.324717957244746 ** -np.arange(1.0, 3.0)[:, None] * np.arange(1, 5) % 1


@dataclass(frozen=True, slots=True)
class TileMap:
    """Of some rows: rectangles of full tiles, and single tiles that are partial; the rest is empty.

    Of groups of batch and head with equal masks only the first has rectangles.
    """

    full: Rects
    partial: Rects


def pairs_of(tiles: Rects, grid: Grid) -> Rects:
    """Rectangles of tiles as rectangles of rows and columns, cut at the lengths."""
    height, width = grid.tile
    r0, r1, c0, c1 = (x.astype(np.int64) for x in tiles.arrays[2:])
    ends = np.minimum(r1 * height, grid.q_len), np.minimum(c1 * width, grid.kv_len)
    return Rects(tiles.b, tiles.h, r0 * height, ends[0], c0 * width, ends[1])


def truth_of_tiles(scene: Scene, tiles: Rects) -> Truth:
    """Truth on rectangles of tiles, whose pairs are worked out LANES at a time."""
    parts = [scene.truth(pairs_of(tiles[part], scene.grid)) for part in chunks(len(tiles), LANES)]
    return joined_truth(parts)


def map_tiles(scene: Scene) -> Iterator[TileMap]:
    """The state of every tile of the grid, band after band of rows: (b, h, i) ascends."""
    grid = scene.grid
    size = 1 << max(grid.q_tiles - 1, grid.kv_tiles - 1, 0).bit_length()
    waiting = [(_roots(scene), size, concatenate([]))]
    may_join, is_told, unsure = True, False, 0
    while waiting:
        level, size, full = waiting.pop()
        open_tiles = int(level.area.sum())
        level, _ = level.split(size, size)
        truth = truth_of_tiles(scene, level)
        full, level = concatenate([full, level[truth.always]]), level[truth.maybe]
        if size == 1 or not len(level):
            unsure += len(level)
            still_open = sum(int(part.area.sum()) for part, _, _ in waiting)
            by_area = unsure + len(level) * still_open / max(open_tiles, 1)
            if not is_told and by_area > MANY:
                expected = max(unsure, min(by_area, _by_rows(scene, level)))
                is_told = expected > MANY
                if is_told:
                    warn_of_cost(scene, expected)
            has_true, has_false = decide_tiles(scene, level)
            yield TileMap(concatenate([full, level[~has_false]]), level[has_true & has_false])
            continue
        if may_join and len(level) > CROWD * _rows_of_level(grid, size):
            may_join = False
            live = live_tiles(scene)
            if live is not None:
                yield _map_of_live(scene, _tiles_of(live, grid))
                return
        size = max(1, size // (4 if len(level) < WIDE_LEVEL else 2))
        bands = _bands(level, full, grid, _most(level, grid))
        waiting += reversed([(part, size, above) for part, above in bands])
        may_join = may_join and len(waiting) == 1


def first_row(rects: Rects, grid: Grid) -> Array:
    """The first row of tiles of the batch and head of each rectangle, counted through all."""
    return np.asarray((rects.b.astype(np.int64) * grid.heads + rects.h) * grid.q_tiles)


def _most(level: Rects, grid: Grid) -> int:
    """Boxes of a band: more of them where the whole table will be large anyway."""
    rows = grid.batch * grid.heads * grid.q_tiles
    row = first_row(level, grid) + level.r0
    of_band = int(row.max() - row.min()) + int((level.r1 - level.r0).max())
    return max(BOXES, len(level) * rows // of_band // BANDS)


def _bands(level: Rects, full: Rects, grid: Grid, most: int) -> Iterator[tuple[Rects, Rects]]:
    """The boxes of one level in bands of rows with at most `most` each, where rows allow it.

    The rectangles of `full` are cut at the same rows.
    """
    row = first_row(level, grid) + level.r0
    above = row[row > row.min()]
    if len(level) <= most or not len(above):
        yield level, full
        return
    # Boxes of a level start in the same rows, so that none of them is cut.
    middle = max(int(np.partition(row, len(row) // 2)[len(row) // 2]), int(above.min()))
    upper = zip(_cut(level, grid, middle), _cut(full, grid, middle), strict=True)
    for part, covers in upper:
        yield from _bands(part, covers, grid, most)


def _cut(rects: Rects, grid: Grid, middle: int) -> tuple[Rects, Rects]:
    """Rectangles above a row of tiles, counted through all groups, and from it on."""
    start = first_row(rects, grid)
    before, after = start + rects.r0 < middle, start + rects.r1 > middle
    above, below = rects[before], rects[after]
    return (
        replace(above, r1=np.minimum(above.r1, middle - start[before])),
        replace(below, r0=np.maximum(below.r0, middle - start[after])),
    )


def _by_rows(scene: Scene, undecided: Rects) -> float:
    """Undecided tiles of the whole grid, if each row has as many as those of this band."""
    grid = scene.grid
    rows = len(np.unique(first_row(undecided, grid) + undecided.r0))
    return len(undecided) * (len(np.unique(scene.like_groups)) * grid.q_tiles / max(rows, 1))


def warn_of_cost(scene: Scene, expected: float) -> None:
    """Say, before they are evaluated, what a mask costs that proofs leave open nearly everywhere.

    Args:
        expected: about how many tiles are undecided.
    """
    grid = scene.grid
    words = print_expr(scene.expr)
    words = words if len(words) < LONG else f"{words[:LONG]} ..."
    warnings.warn(
        f"no rule decides the mask {words} on about {expected:.2g} tiles of {grid.tile}: up to"
        f" {expected * grid.tile[0] * grid.tile[1]:.2g} pairs are evaluated for its plan. Larger"
        " tiles, a shorter sequence, or comparisons of q with kv that are intervals take less.",
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
    unsure = ~truth_of_tiles(scene, tiles).always
    has_false = np.zeros(len(tiles), np.bool_)
    has_false[unsure] = decide_tiles(scene, tiles[unsure], live=True)[1]
    return TileMap(tiles[~has_false], tiles[has_false])


def _roots(scene: Scene) -> Rects:
    """The whole grid, once for each batch and head that has a mask of its own."""
    grid = scene.grid
    if grid.is_empty:
        return concatenate([])
    b, h = np.divmod(np.unique(scene.like_groups), grid.heads)
    zero = np.zeros_like(b)
    return Rects(b, h, zero, zero + grid.q_tiles, zero, zero + grid.kv_tiles).narrow()


def decide_tiles(scene: Scene, tiles: Rects, live: bool = False) -> tuple[Array, Array]:
    """`decide` of single tiles, whose pairs are worked out some at a time."""
    has_true, has_false = np.zeros((2, len(tiles)), np.bool_)
    for part in chunks(len(tiles), TILES):
        pairs = pairs_of(tiles[part], scene.grid)
        has_true[part], has_false[part] = decide(scene, pairs, live)
    return has_true, has_false


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
    while True:
        rects, of = _seen(scene, rects, of, CORNERS, has_true, has_false)
        if not len(rects):
            return
        pieces, parent, whole = _at_jumps(scene, rects)
        if len(pieces):
            rest, of_rest = rects[whole], of[whole]
        else:
            rest, of_rest = rects, of
        rest, of_rest = _seen_closely(scene, rest, of_rest, has_true, has_false)
        rects, parent_of_rest = rest.split(*_next_size(rest))
        rects, of = concatenate([pieces, rects]), np.append(of[parent], of_rest[parent_of_rest])
        truth = scene.truth(rects)
        has_true[of[truth.always]] = True
        has_false[of[~truth.possible]] = True
        open_ = truth.maybe & ~(has_true & has_false)[of]
        rects, of = rects[open_], of[open_]


def _seen(
    scene: Scene, rects: Rects, of: Array, points: Array, has_true: Array, has_false: Array
) -> tuple[Rects, Array]:
    """The rectangles that are open after a look at points of each, and whose pieces they are."""
    for part in chunks(len(rects), POINTS // points.shape[1] ** 2):
        witnesses = _witnesses(scene, rects[part], points)
        has_true[of[part][witnesses.any(axis=1)]] = True
        has_false[of[part][~witnesses.all(axis=1)]] = True
    open_ = ~(has_true & has_false)[of]
    return rects[open_], of[open_]


def _seen_closely(
    scene: Scene, rects: Rects, of: Array, has_true: Array, has_false: Array
) -> tuple[Rects, Array]:
    """The same after a look at more points, and at all of those that are leaves."""
    if not len(rects):
        return rects, of
    rects, of = _seen(scene, rects, of, SPREAD, has_true, has_false)
    small = _is_leaf(rects)
    for leaf, allowed, inside in _leaves(scene, rects[small]):
        number = of[small][leaf]
        has_true[number[(allowed & inside).any(axis=(1, 2))]] = True
        has_false[number[(~allowed & inside).any(axis=(1, 2))]] = True
    return rects[~small], of[~small]


def _at_jumps(scene: Scene, rects: Rects) -> tuple[Rects, Array, Array]:
    """Rectangles cut where numbers of the mask jump, whose pieces they are; which have no jump."""
    along_q, along_kv = scene.jumps
    if not (along_q or along_kv):
        return concatenate([]), np.zeros(0, np.int64), np.ones(len(rects), np.bool_)
    row = first_jump(along_q, scene.grid.q_offset, rects.r0, rects.r1)
    column = first_jump(along_kv, 0, rects.c0, rects.c1)
    jumps = (row < rects.r1) | (column < rects.c1)
    cut, column = np.flatnonzero(jumps), column[jumps]
    halves = replace(rects, r1=row)[cut], replace(rects, r0=row)[cut]
    left = [replace(half, c1=column) for half in halves]
    pieces = concatenate(left + [replace(half, c0=column) for half in halves])
    some = pieces.area > 0
    return pieces[some], np.tile(cut, 4)[some], ~jumps


def _is_leaf(rects: Rects) -> Array:
    return np.asarray((rects.r1 - rects.r0 <= LEAF) & (rects.c1 - rects.c0 <= LEAF))


def _next_size(rects: Rects) -> tuple[int, int]:
    """A quarter of the largest rectangle, in each direction, but no less than a leaf."""
    height = int((rects.r1 - rects.r0).max(initial=1))
    width = int((rects.c1 - rects.c0).max(initial=1))
    return max(LEAF, -(-height // 4)), max(LEAF, -(-width // 4))


def _witnesses(scene: Scene, rects: Rects, points: Array) -> Array:
    """The mask at points of each rectangle, fractions [2, k] of its rows and columns: [n, k**2]."""
    height, width = rects.r1 - rects.r0 - 1, rects.c1 - rects.c0 - 1
    rows = rects.r0[:, None] + (height[:, None] * points[0]).astype(np.int64)
    columns = rects.c0[:, None] + (width[:, None] * points[1]).astype(np.int64)
    b, h = rects.b[:, None, None], rects.h[:, None, None]
    seen = scene.evaluate(b, h, rows[:, :, None], columns[:, None, :])
    return seen.reshape(len(rects), points.shape[1] ** 2)


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
