"""Token orders in which a neighbourhood of a grid is a dense tile of the attention matrix.

    place in the order = (tile, row-major) * volume + (place in the tile, row-major)

Source: the tile-major order of Zhang et al. 2025, "Fast Video Generation with Sliding Tile
Attention", https://arxiv.org/abs/2502.04507, for any mask on a grid. Row-major, a window of w x w
tokens lies in w far stretches of keys; tile-major, in a few whole tiles.
"""

from __future__ import annotations

from math import prod
from typing import Any

import flexdsl as fx

from ..arguments import integers_at_least, refuse
from .grid import grid
from .permute import to_rows, to_tiles
from .reorder import reordered


class TileOrder:
    """Tokens of a grid, tile after tile. Ragged grids are padded to whole tiles.

        order = TileOrder((96, 96), (8, 16))
        out = order.undo(fx.attention(order.apply(q), order.apply(k), order.apply(v),
                                      mask=mask.in_order(order)))

    Attributes:
        shape: tokens on each axis, row-major before.
        tile: tokens of a tile on each axis; their product is best the block of the kernel, 128.
        length: places in the order, the padding included.
    """

    def __init__(self, shape: Any, tile: Any) -> None:
        """Take the tokens on each of 1 to 3 axes, and those of a tile; one number for all.

        Raises:
            ArgumentError: not as many numbers as axes, or a tile is longer than its axis.
        """
        self._grid = grid(shape)
        self.shape = self._grid.shape
        self.tile = tuple(integers_at_least(1, "tile", tile, len(self.shape)))
        for axis, (size, part) in enumerate(zip(self.shape, self.tile, strict=True)):
            if part > size:
                raise refuse(f"tile[{axis}] is {part}, but the grid has {size} tokens there")
        self._counts = tuple(-(-s // t) for s, t in zip(self.shape, self.tile, strict=True))
        self._padded = tuple(n * t for n, t in zip(self._counts, self.tile, strict=True))
        self._tiles, self._inside = grid(self._counts), grid(self.tile)
        self.length = prod(self._padded)

    def apply(self, x: Any, dim: int = -2) -> Any:
        """`x` with the tokens of dimension `dim` in this order; zeros where there is padding.

        Takes tensors and arrays, [B, H, tokens, D] by default; gradients go through.

        Raises:
            ArgumentError: the dimension has another number of tokens than the grid.
        """
        return to_tiles(x, dim, self.shape, self._counts, self.tile)

    def undo(self, x: Any, dim: int = -2) -> Any:
        """`x` with the tokens of dimension `dim` row-major again, and the padding gone.

        Raises:
            ArgumentError: the dimension has another length than the order.
        """
        return to_rows(x, dim, self.shape, self._counts, self.tile)

    def __repr__(self) -> str:
        return f"TileOrder({self.shape}, {self.tile})"

    def coordinates(self, place: Any) -> tuple[Any, ...]:
        """The grid's coordinates at a place of the order; of padding, beyond the grid."""
        volume = self._inside.length
        tiles, inside = self._tiles(place // volume), self._inside(place % volume)
        return tuple(n * t + i for n, t, i in zip(tiles, self.tile, inside, strict=True))

    def original(self, place: Any) -> Any:
        """The row-major index of the token at a place; of padding, that of the token nearest."""
        found = self.coordinates(place)
        if self._padded != self.shape:
            found = tuple(fx.minimum(x, n - 1) for x, n in zip(found, self.shape, strict=True))
        return self._grid.index(*found)

    def has_token(self, place: Any) -> Any:
        """Is there a token at a place, not padding?"""
        found: Any = True
        for x, size, padded in zip(self.coordinates(place), self.shape, self._padded, strict=True):
            found = found and (padded == size or x < size)
        return found

    def reorder(self, mod: fx.Mod) -> fx.Mod:
        """`mod`, made for row-major tokens, for tokens in this order: what `Mod.in_order` calls.

        Keys that are padding are seen by none; queries that are see what their nearest token sees.
        """
        return reordered(mod, self.original, self.has_token)
