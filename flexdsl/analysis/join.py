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

from flexdsl.analysis.scene import POINTS, Scene
from flexdsl.analysis.truth import flatten
from flexdsl.ir import Expr, Op, Type, evaluate, walk

Array = NDArray[Any]
FEW = 64  # pairs with equal values for each position: with more of them others find them as fast


@dataclass(frozen=True, eq=False)
class Join:
    """The pairs of one batch and head whose values are equal.

    Attributes:
        order: key indices by their value.
        first, stop: the run of each query row in `order`.
    """

    order: Array
    first: Array
    stop: Array

    @property
    def pairs(self) -> int:
        """How many pairs are equal."""
        return int((self.stop - self.first).sum())

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Rows and keys of equal pairs, in chunks."""
        ends = np.cumsum(self.stop - self.first)
        start, total = 0, int(ends[-1]) if len(ends) else 0
        while start < total:
            stop = min(start + POINTS, total)
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
    f, g = found
    made = [
        (b, h, _join(_values(scene, f, "q", b, h), _values(scene, g, "kv", b, h)))
        for b, h in np.ndindex(grid.batch, grid.heads)
    ]
    if sum(join.pairs for _, _, join in made) > FEW * len(made) * (grid.q_len + grid.kv_len):
        return None
    return iter(made)


def _equality(mask: Expr) -> tuple[Expr, Expr] | None:
    """f and g where the mask needs f == g, f knows no key, g no query, and both are integers."""
    for part in flatten(mask) if mask.op is Op.AND else [mask]:
        if part.op is Op.EQ and part.args[0].type is Type.INDEX:
            for f, g in (part.args, part.args[::-1]):
                both = {"q", "kv"}
                if f.variables & both == {"q"} and g.variables & both == {"kv"}:
                    return f, g
    return None


def _values(scene: Scene, side: Expr, axis: str, b: int, h: int) -> Array:
    """One side of an equality at all positions of its axis."""
    grid = scene.grid
    positions = np.arange(grid.q_len) + grid.q_offset if axis == "q" else np.arange(grid.kv_len)
    variables = {"b": np.asarray(b), "h": np.asarray(h), axis: positions}
    return np.broadcast_to(evaluate(side, variables, scene.bindings.all), positions.shape)


def _join(of_rows: Array, of_keys: Array) -> Join:
    order = np.argsort(of_keys, kind="stable")
    ascending = of_keys[order]
    first = np.searchsorted(ascending, of_rows, side="left")
    return Join(order, first, np.searchsorted(ascending, of_rows, side="right"))


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


def is_searched(part: Expr) -> bool:
    """Is a condition `f(q) == g(kv)`, of which a captured tensor tells where it holds?"""
    loads = any(node.op is Op.LOAD for node in walk(part))
    return loads and part.op is Op.EQ and _equality(part) is not None


def equal_tiles(scene: Scene) -> tuple[Array, Array] | None:
    """The tiles with a pair that `f(q) == g(kv)` allows, and are all of its pairs allowed?

    Runs of equal values, cut at the tiles, are joined as one.

    Returns:
        Numbers as of `live_tiles`, ascending, and bools; None where many values are equal.
    """
    found, grid = _equality(scene.expr), scene.grid
    if found is None or grid.is_empty:
        return None
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for b, h in np.ndindex(grid.batch, grid.heads):
        rows, keys = (
            _spans(_values(scene, side, axis, b, h), size)
            for side, axis, size in zip(found, ("q", "kv"), grid.tile, strict=True)
        )
        join = _join(rows.values, keys.values)
        if join.pairs > FEW * (len(rows.values) + len(keys.values)):
            return None
        first = (b * grid.heads + h) * grid.q_tiles
        for row, key in join:
            number = (first + rows.tiles[row]) * grid.kv_tiles + keys.tiles[key]
            parts.append(_summed(number, rows.lengths[row] * keys.lengths[key]))
    number, area = _summed(*(np.concatenate(x) for x in zip(*parts, strict=True)))
    i, j = number // grid.kv_tiles % grid.q_tiles, number % grid.kv_tiles
    height = np.minimum(grid.q_len - i * grid.tile[0], grid.tile[0])
    width = np.minimum(grid.kv_len - j * grid.tile[1], grid.tile[1])
    return number, area == height * width


def _summed(number: Array, area: Array) -> tuple[Array, Array]:
    """Each number once, ascending, with the sum of its areas."""
    unique, of = np.unique(number, return_inverse=True)
    return unique, np.bincount(of, area, len(unique)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Spans:
    """Runs of positions with one value, none of which reaches into another tile: arrays [n]."""

    values: Array
    lengths: Array
    tiles: Array


def _spans(values: Array, size: int) -> _Spans:
    """The spans of an axis in tiles of `size`."""
    opens = np.append(True, values[1:] != values[:-1])
    opens[::size] = True
    starts = np.flatnonzero(opens)
    return _Spans(values[starts], np.diff(starts, append=len(values)), starts // size)
