"""Tiles and pairs of `f(q) == g(kv)` by joining equal values, where those are few.

Thousands of documents in any order leave a few pairs in every tile, which no interval sees. Sorting
the values of both axes finds exactly those pairs, at a cost of the pairs that are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.scene import Scene
from flexdsl.analysis.truth import flatten
from flexdsl.ir import Expr, Op, Type, evaluate

Array = NDArray[Any]
AXES = ("q", "kv")
PAIRS = 1 << 13  # looked at together
FEW = 64  # pairs with equal values for each position: with more of them others find them as fast


@dataclass(frozen=True, eq=False)
class Join:
    """The pairs of one batch and head whose values are equal.

    Attributes:
        order: key indices by their value: int32.
        first, stop: the run of each query row in `order`: int32.
    """

    order: Array
    first: Array
    stop: Array

    @property
    def pairs(self) -> int:
        """How many pairs are equal."""
        return int((self.stop - self.first).sum(dtype=np.int64))

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Rows and keys of equal pairs, in chunks."""
        ends = np.cumsum(self.stop - self.first, dtype=np.int64)
        start, total = 0, int(ends[-1]) if len(ends) else 0
        while start < total:
            stop = min(start + PAIRS, total)
            number = np.arange(start, stop)
            row = np.searchsorted(ends, number, side="right")
            yield row, self.order[self.stop[row] - (ends[row] - number)]
            start = stop


def joins(scene: Scene) -> Iterator[tuple[int, int, Join]] | None:
    """The equal pairs of each batch and head; None where no equality has few of them."""
    found = _equality(scene.expr)
    grid = scene.grid
    if found is None or grid.is_empty:
        return None
    made = [
        (
            *group,
            join_of(*(values_of(scene, f, a, group) for f, a in zip(found, AXES, strict=True))),
        )
        for group in np.ndindex(grid.batch, grid.heads)
    ]
    if sum(join.pairs for _, _, join in made) > FEW * len(made) * (grid.q_len + grid.kv_len):
        return None
    return iter(made)


def _equality(mask: Expr) -> tuple[Expr, Expr] | None:
    """The first equality of integers that the mask needs."""
    parts = flatten(mask) if mask.op is Op.AND else [mask]
    found = (sides_of(part) for part in parts if part.args and part.args[0].type is Type.INDEX)
    return next((sides for sides in found if sides is not None), None)


def sides_of(part: Expr) -> tuple[Expr, Expr] | None:
    """f and g where a condition is f == g, f knows no key, g no query, and neither is a float."""
    if part.op is Op.EQ and part.args[0].type is not Type.FLOAT:
        for f, g in (part.args, part.args[::-1]):
            both = {"q", "kv"}
            if f.variables & both == {"q"} and g.variables & both == {"kv"}:
                return f, g
    return None


def values_of(
    scene: Scene, side: Expr, axis: str, group: tuple[int, ...], part: slice | None = None
) -> Array:
    """One side of an equality at (some) positions of its axis, of one batch and head.

    Args:
        part: their indices; all of them if it is None.
    """
    grid = scene.grid
    length, first = (grid.q_len, grid.q_offset) if axis == "q" else (grid.kv_len, 0)
    part = part or slice(0, length)
    positions = np.arange(part.start + first, part.stop + first, part.step)
    variables = {"b": np.asarray(group[0]), "h": np.asarray(group[1]), axis: positions}
    return np.broadcast_to(evaluate(side, variables, scene.bindings.all), positions.shape)


def join_of(of_rows: Array, of_keys: Array) -> Join:
    """The pairs of two lists of values that are equal."""
    order = np.argsort(of_keys, kind="stable").astype(np.int32)
    ascending = of_keys[order]
    ends = (np.searchsorted(ascending, of_rows, side=side) for side in ("left", "right"))
    return Join(order, *(end.astype(np.int32) for end in ends))


def count_joined(scene: Scene) -> int | None:
    """Allowed pairs of all batches and heads; None where no equality has few pairs."""
    found = joins(scene)
    if found is None:
        return None
    return sum(
        int(np.count_nonzero(scene.evaluate(np.asarray(b), np.asarray(h), rows, keys)))
        for b, h, join in found
        for rows, keys in join
    )


def live_tiles(scene: Scene) -> Array | None:
    """Numbers of the tiles with an allowed pair, ascending; None where no equality has few pairs.

    Tile (i, j) of batch b and head h has the number ((b * heads + h) * q_tiles + i) * kv_tiles + j.
    """
    found = joins(scene)
    if found is None:
        return None
    grid = scene.grid
    height, width = grid.tile
    parts = [np.zeros(0, np.int64)]
    for b, h, join in found:
        for rows, keys in join:
            allowed = scene.evaluate(np.asarray(b), np.asarray(h), rows, keys)
            row = (b * grid.heads + h) * grid.q_tiles + rows[allowed] // height
            parts.append(np.unique(row * grid.kv_tiles + keys[allowed] // width))
    return np.unique(np.concatenate(parts))
