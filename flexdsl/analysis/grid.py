"""The geometry of a plan: lengths, tile shape and offset, and rectangles of tiles or of pairs.

Arithmetic only: no mask, no proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Grid:
    """The pairs of a plan and how they are cut into tiles.

    Attributes:
        q_len, kv_len: rows and columns; row r has position q_offset + r.
        tile: rows and columns of a tile.
        batch, heads: how many of each the mask tells apart: 1 where it does not depend on them.
    """

    q_len: int
    kv_len: int
    tile: tuple[int, int]
    q_offset: int
    batch: int
    heads: int

    @property
    def q_tiles(self) -> int:
        """Tiles along q, the last one possibly cut."""
        return -(-self.q_len // self.tile[0])

    @property
    def kv_tiles(self) -> int:
        """Tiles along kv."""
        return -(-self.kv_len // self.tile[1])

    @property
    def is_empty(self) -> bool:
        """Has the plan no pair at all?"""
        return 0 in (self.q_len, self.kv_len, self.batch, self.heads)


@dataclass(frozen=True, slots=True)
class Rects:
    """Rectangles rows [r0, r1) x columns [c0, c1) of batch b and head h: arrays [n].

    All numbers fit in int32, as which those of a subdivision are kept; their products do not.
    """

    b: Array
    h: Array
    r0: Array
    r1: Array
    c0: Array
    c1: Array

    def __len__(self) -> int:
        return len(self.r0)

    def __getitem__(self, chosen: Any) -> Rects:
        if isinstance(chosen, np.ndarray) and chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)  # once, not for each of the arrays
        return Rects(*(x[chosen] for x in self.arrays))

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The six arrays."""
        return self.b, self.h, self.r0, self.r1, self.c0, self.c1

    @property
    def area(self) -> Array:
        """Cells of each rectangle."""
        return np.asarray((self.r1 - self.r0).astype(np.int64) * (self.c1 - self.c0))

    def narrow(self) -> Rects:
        """The same in int32."""
        return Rects(*(x.astype(np.int32, copy=False) for x in self.arrays))

    def split(self, height: int, width: int) -> tuple[Rects, Array]:
        """Pieces of at most height x width cells, and the number of the rectangle of each."""
        rows, row_of = _cuts(self.r0, self.r1, height)
        columns, column_of = _cuts(self.c0, self.c1, width)
        # Cut along rows first: piece k of rectangle row_of[k]; then each such piece along columns.
        per_rect = np.bincount(column_of, minlength=len(self)).astype(np.int64)
        first_column = np.cumsum(per_rect) - per_rect
        repeats = per_rect[row_of]
        piece, within = numbered(repeats)
        parent = row_of[piece]
        r0 = rows[piece]
        c0 = columns[first_column[parent] + within]
        r1 = np.minimum(r0 + height, self.r1[parent])
        c1 = np.minimum(c0 + width, self.c1[parent])
        return Rects(self.b[parent], self.h[parent], r0, r1, c0, c1).narrow(), parent


def _cuts(first: Array, stop: Array, size: int) -> tuple[Array, Array]:
    """Starts of the pieces of each range [first, stop), and the number of its range."""
    counts = -(-(stop - first) // size)
    of, within = numbered(counts)
    return first[of] + within * size, of


def numbered(counts: Array) -> tuple[Array, Array]:
    """What is counted, one by one: of which count each is, and its number in that, from 0."""
    of = np.repeat(np.arange(len(counts)), counts)
    return of, np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)


def concatenate(parts: list[Rects]) -> Rects:
    """All rectangles in one list."""
    if not parts:
        return Rects(*(np.zeros(0, np.int64) for _ in range(6)))
    return Rects(
        *(np.concatenate(arrays) for arrays in zip(*(p.arrays for p in parts), strict=True))
    )
