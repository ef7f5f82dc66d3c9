"""Where the tokens of a grid stand when it is cut into tiles: arithmetic of places.

It moves no tensors and changes no mods; `tile_order.py` does, with this.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import flexdsl as fx

from ..arguments import integer_at_least, integers_at_least, refuse
from .grid import Grid, grid


def tiled_grid(shape: Any, tile: Any, extra: Any) -> TiledGrid:
    """The grid of those numbers.

    Raises:
        ArgumentError: not as many numbers as axes, or a tile is longer than its axis.
    """
    rows = grid(shape)
    parts = tuple(integers_at_least(1, "tile", tile, len(rows.shape)))
    for axis, (size, part) in enumerate(zip(rows.shape, parts, strict=True)):
        if part > size:
            raise refuse(f"tile[{axis}] is {part}, but the grid has {size} tokens there")
    return TiledGrid(rows.shape, parts, integer_at_least(0, "extra", extra))


@dataclass(frozen=True)
class TiledGrid:
    """A grid in tiles, the last ones padded, and tokens after it that stay in their order.

    It never changes.

    Attributes:
        shape, tile: tokens on each axis, of the grid and of a tile.
        extra: tokens after the grid.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    extra: int

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Tiles on each axis."""
        return tuple(-(-s // t) for s, t in zip(self.shape, self.tile, strict=True))

    @cached_property
    def tokens(self) -> int:
        """Number of the grid's tokens, without the extra ones."""
        return prod(self.shape)

    @cached_property
    def places(self) -> int:
        """Number of places in the tiles, without the extra ones."""
        return prod(self.counts) * prod(self.tile)

    @cached_property
    def _ragged(self) -> tuple[bool, ...]:
        return tuple(s % t > 0 for s, t in zip(self.shape, self.tile, strict=True))

    def coordinates(self, place: Any) -> tuple[Any, ...]:
        """The grid's coordinates at a place; beyond the grid where there is padding."""
        volume = prod(self.tile)
        tiles, inside = Grid(self.counts)(place // volume), Grid(self.tile)(place % volume)
        return tuple(n * t + i for n, t, i in zip(tiles, self.tile, inside, strict=True))

    def original(self, place: Any) -> Any:
        """The row-major index of the token at a place; of padding, that of the token nearest."""
        found = tuple(
            fx.minimum(x, size - 1) if ragged else x
            for x, size, ragged in zip(
                self.coordinates(place), self.shape, self._ragged, strict=True
            )
        )
        # A branch, not `where`: on either side of it what is asked about the index is simple.
        if self.extra and place >= self.places:
            return place - (self.places - self.tokens)
        return Grid(self.shape).index(*found)

    def has_token(self, place: Any) -> Any:
        """Is there a token at a place, not padding?"""
        found: Any = True
        for x, size, ragged in zip(self.coordinates(place), self.shape, self._ragged, strict=True):
            found = found and (not ragged or x < size)
        return found or (self.extra > 0 and place >= self.places)
