"""Parts of the rows of a mask of equal values, and the tiles of keys that may have values of each.

A window of an image is in few rows of it, so that what a part of the queries is equal to lies in
few tiles of keys. Parts that are treated one after the other take less memory than all of them.
Ranges of values in tiles are found by proof; no captured tensor is read for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.ranges import narrowed
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.truth import Judge
from flexdsl.ir import Expr, Type

Array = NDArray[Any]
POSITIONS = 3 << 15  # queries of a part
AGAIN = 3  # times that a key is looked at, at most


@dataclass(frozen=True, eq=False)
class NearKeys:
    """Where keys may have the values of queries.

    Attributes:
        ranges: of each equality the least and the largest value in each tile of keys: [kv_tiles].
    """

    ranges: list[tuple[Array, Array]]

    def tiles(self, values: Array) -> list[tuple[int, int]]:
        """The runs of tiles that may have one of these values of each equality: [equalities, n].

        The first tile where none has.
        """
        near = np.ones(self.ranges[0][0].shape, np.bool_)
        for value, (low, high) in zip(values, self.ranges, strict=True):
            known = np.sort(value)
            near &= np.searchsorted(known, low) < np.searchsorted(known, high, side="right")
        near[0] |= not near.any()
        ends = np.flatnonzero(np.diff(near, prepend=False, append=False))
        return [(int(start), int(stop)) for start, stop in ends.reshape(-1, 2)]


def near_keys(
    scene: Scene, sides: list[tuple[Expr, Expr]], group: tuple[int, ...]
) -> tuple[NearKeys, list[tuple[int, int]]] | None:
    """Where the keys of each part are, and the parts: runs of q tiles.

    None where there is one part only, where nearly all keys are near to each, or where what is
    captured tells the values.
    """
    grid = scene.grid
    size = max(1, POSITIONS // grid.tile[0])
    if grid.q_tiles < 2 * size or any(x.loads for pair in sides for x in pair):
        return None
    starts = np.arange(0, grid.q_tiles, size)
    parts = [(int(first), min(int(first) + size, grid.q_tiles)) for first in starts]
    near = np.ones((len(parts), grid.kv_tiles), np.bool_)
    of_keys = list[tuple[Array, Array]]()
    for f, g in sides:
        low, high = _ranges(scene, f, "q", group)
        least, most = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
        low, high = _ranges(scene, g, "kv", group)
        near &= (least[:, None] <= high) & (low <= most[:, None])
        of_keys.append((low, high))
    if np.count_nonzero(near) > AGAIN * grid.kv_tiles:
        return None
    return NearKeys(of_keys), parts


def _ranges(scene: Scene, side: Expr, axis: str, group: tuple[int, ...]) -> tuple[Array, Array]:
    """The least and the largest value of a side in each tile of its axis."""
    grid = scene.grid
    length, size, first = (
        (grid.q_len, grid.tile[0], grid.q_offset) if axis == "q" else (grid.kv_len, grid.tile[1], 0)
    )
    starts = np.arange(0, length, size)
    box = {name: (np.array([x]),) * 2 for name, x in zip("bh", group, strict=True)}
    box[axis] = starts + first, np.minimum(starts + size, length) - 1 + first
    judge = Judge(side, scene.bindings)
    if side.type is Type.BOOL:
        truth = judge.truth(box)
        ends = truth.always.astype(np.int64), truth.possible.astype(np.int64)
    else:
        interval = judge.interval(box)
        ends = interval.lo, interval.hi
    low, high = (np.broadcast_to(narrowed(x), starts.shape) for x in ends)
    return low, high
