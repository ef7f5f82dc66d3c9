"""Where the tokens of a grid stand when it is cut into tiles: arithmetic of places.

It moves no tensors and changes no mods; `tile_order.py` does, with this.
"""

from __future__ import annotations

from math import prod
from typing import Any

import flexdsl as fx

from ..arguments import integer_at_least, integers_at_least, refuse
from .grid import grid


class TiledGrid:
    """A grid in tiles, the last ones padded, and tokens after it that stay in their order.

    Attributes:
        shape, tile: tokens on each axis, of the grid and of a tile.
        counts: tiles on each axis.
        extra: tokens after the grid.
        tokens, places: length of the grid's tokens, and of the tiles, without the extra ones.
    """

    def __init__(self, shape: Any, tile: Any, extra: Any) -> None:
        """Check the numbers.

        Raises:
            ArgumentError: not as many numbers as axes, or a tile is longer than its axis.
        """
        self._rows = grid(shape)
        self.shape = self._rows.shape
        self.tile = tuple(integers_at_least(1, "tile", tile, len(self.shape)))
        self.extra = integer_at_least(0, "extra", extra)
        for axis, (size, part) in enumerate(zip(self.shape, self.tile, strict=True)):
            if part > size:
                raise refuse(f"tile[{axis}] is {part}, but the grid has {size} tokens there")
        self.counts = tuple(-(-s // t) for s, t in zip(self.shape, self.tile, strict=True))
        self._ragged = tuple(s % t > 0 for s, t in zip(self.shape, self.tile, strict=True))
        self._tiles, self._inside = grid(self.counts), grid(self.tile)
        self.tokens, self.places = self._rows.length, prod(self.counts) * prod(self.tile)

    def coordinates(self, place: Any) -> tuple[Any, ...]:
        """The grid's coordinates at a place; beyond the grid where there is padding."""
        volume = self._inside.length
        tiles, inside = self._tiles(place // volume), self._inside(place % volume)
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
        return self._rows.index(*found)

    def has_token(self, place: Any) -> Any:
        """Is there a token at a place, not padding?"""
        found: Any = True
        for x, size, ragged in zip(self.coordinates(place), self.shape, self._ragged, strict=True):
            found = found and (not ragged or x < size)
        return found or (self.extra > 0 and place >= self.places)
