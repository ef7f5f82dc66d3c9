"""The table of a mask that is looked up by blocks, `table[q // 64, kv // 64]`: one look a block.

The extremes of a table of chosen blocks tell nothing of a box that has some of them, and to find
them every element is read. Reading each block once is then less, and is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.affine import LinearForms, divisor_of
from flexdsl.analysis.grid import Rects
from flexdsl.analysis.scene import Scene, chunks
from flexdsl.analysis.subdivide import TileMap
from flexdsl.analysis.table import RunTable, table_of_maps
from flexdsl.analysis.values import specialise
from flexdsl.ir import Capture, Expr, var, walk

Array = NDArray[Any]
BLOCKS = 1 << 16  # looked at together
LOOKS = 4  # of the mask, for each element of what is looked up: then proofs need not be tried


def looked_up_table(scene: Scene) -> RunTable | None:
    """The runs of kv tiles of every q tile.

    None where no captured tensor is indexed by both axes, where the mask tells positions of a block
    apart, or where there are far more blocks than elements.
    """
    grid, mask = scene.grid, specialise(scene.expr, scene.bindings)
    arrays = scene.bindings.arrays
    sizes = [
        prod(arrays.shape(node.attribute.name))
        for node in walk(mask)
        if isinstance(node.attribute, Capture) and {"q", "kv"} <= node.variables
    ]
    if not sizes or grid.is_empty:
        return None
    height = block_of(mask, "q", gcd(grid.tile[0], grid.q_offset))
    width = block_of(mask, "kv", grid.tile[1])
    looks = -(-grid.q_len // height) * -(-grid.kv_len // width) * len(np.unique(scene.like_groups))
    if looks > LOOKS * sum(sizes):
        return None
    return table_of_maps(_map_blocks(scene, height, width), scene)


def block_of(mask: Expr, axis: str, size: int) -> int:
    """The largest divisor of `size` by blocks of which `mask` knows positions; 1 if one by one."""
    forms, position = LinearForms(), var(axis)
    seen: set[Expr] = set()
    stack = [mask]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node is position:
            return 1
        divisor = divisor_of(node)
        form = None if divisor is None else forms.of(node.args[0])
        if divisor is not None and form is not None and form.terms == ((position, 1),):
            size = gcd(size, divisor, form.constant)
        else:
            stack.extend(node.args)
    return size


def _map_blocks(scene: Scene, height: int, width: int) -> Iterator[TileMap]:
    """The tiles of some rows after others, by the first pair of each block."""
    grid = scene.grid
    rows, columns = np.arange(0, grid.q_len, height), np.arange(0, grid.kv_len, width)
    of_tile = grid.tile[0] // height, grid.tile[1] // width
    for group in np.unique(scene.like_groups):
        b, h = divmod(int(group), grid.heads)
        for tiles in chunks(grid.q_tiles, max(1, BLOCKS // (of_tile[0] * len(columns)))):
            here = rows[tiles.start * of_tile[0] : tiles.stop * of_tile[0]]
            seen = scene.evaluate(np.asarray(b), np.asarray(h), here[:, None], columns[None, :])
            some, all_ = (_of_tiles(f, seen, of_tile) for f in (np.logical_or, np.logical_and))
            full, partial = (_tiles(b, h, tiles.start, x) for x in (all_, some & ~all_))
            yield TileMap(full, partial)


def _of_tiles(function: Any, seen: Array, of_tile: tuple[int, int]) -> Array:
    """`function` of the blocks of each tile: bool [q tiles, kv tiles]."""
    for axis, size in enumerate(of_tile):
        if size > 1:
            seen = function.reduceat(seen, np.arange(0, seen.shape[axis], size), axis=axis)
    return seen


def _tiles(b: int, h: int, start: int, chosen: Array) -> Rects:
    """The chosen ones of some rows of tiles, from `start` on: bool [rows, kv tiles]."""
    i, j = (x.astype(np.int32) for x in np.nonzero(chosen))
    i += start
    return Rects(np.full_like(i, b), np.full_like(i, h), i, i + 1, j, j + 1)
