"""Token orders in which a neighbourhood of a grid is a dense tile of the attention matrix.

    place in the order = ((class, row-major) * tiles + (tile, row-major)) * volume
                         + (place in the tile, row-major)
    index on an axis   = (tile * tokens of a tile + place in the tile) * dilation + class

Source: the tile-major order of Zhang et al. 2025, "Fast Video Generation with Sliding Tile
Attention", https://arxiv.org/abs/2502.04507, for any mask on a grid. Row-major, a window of w x w
tokens lies in w far stretches of keys; tile-major, in a few whole tiles. A dilated mask sees tokens
of one class alone, those of equal remainders on each axis: class after class, as NATTEN partitions
tokens (https://github.com/SHI-Labs/NATTEN), its keys stand together too.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from .permute import to_rows, to_tiles
from .reorder import reordered
from .tiled_grid import tiled_grid


class TileOrder:
    """Tokens of a grid, tile after tile. Ragged grids are padded to whole tiles.

        order = TileOrder((96, 96), (8, 16))
        out = order.undo(fx.attention(order.apply(q), order.apply(k), order.apply(v),
                                      mask=mask.in_order(order)))

    Attributes:
        shape: tokens on each axis, row-major before.
        tile: tokens of a tile on each axis; their product is best the block of the kernel, 128.
        dilation: classes of tokens on each axis.
        length: places in the order, padding and extra tokens included.
    """

    def __init__(self, shape: Any, tile: Any, *, dilation: Any = 1, extra: int = 0) -> None:
        """Take the tokens on each of 1 to 3 axes, and those of a tile; one number for all.

        Args:
            shape, tile: tokens of the grid and of a tile.
            dilation: positions from one token of a class to the next on each axis, as those of a
                dilated mask; 1 for tokens of one class.
            extra: tokens after the grid, text for example, which stay after it as they are.

        Raises:
            ArgumentError: not as many numbers as axes; on an axis, more classes than tokens, or a
                tile that is longer than the largest class.
        """
        self._grid = tiled_grid(shape, tile, dilation, extra)
        self.shape, self.tile, self.extra = self._grid.shape, self._grid.tile, self._grid.extra
        self.dilation = self._grid.dilation
        self.length = self._grid.places + self.extra

    def __repr__(self) -> str:
        dilation = f", dilation={self.dilation}" if max(self.dilation) > 1 else ""
        extra = f", extra={self.extra}" if self.extra else ""
        return f"TileOrder({self.shape}, {self.tile}{dilation}{extra})"

    def apply(self, x: Any, dim: int = -2) -> Any:
        """`x` with the tokens of dimension `dim` in this order; zeros where there is padding.

        Takes tensors and arrays, [B, H, tokens, D] by default; gradients go through.

        Raises:
            ArgumentError: the dimension has another number of tokens than the grid and the extra.
        """
        return to_tiles(x, dim, self._grid)

    def undo(self, x: Any, dim: int = -2) -> Any:
        """`x` with the tokens of dimension `dim` row-major again, and the padding gone.

        Raises:
            ArgumentError: the dimension has another length than the order.
        """
        return to_rows(x, dim, self._grid)

    def coordinates(self, place: Any) -> tuple[Any, ...]:
        """The grid's coordinates at a place of the order; of padding, beyond the grid."""
        return self._grid.coordinates(place)

    def original(self, place: Any) -> Any:
        """The row-major index of the token at a place; of padding, that of the token nearest."""
        return self._grid.original(place)

    def has_token(self, place: Any) -> Any:
        """Is there a token at a place, not padding?"""
        return self._grid.has_token(place)

    def reorder(self, mod: fx.Mod) -> fx.Mod:
        """`mod`, made for row-major tokens, for tokens in this order: what `Mod.in_order` calls.

        Keys that are padding are seen by none; queries that are see what their nearest token sees.
        """
        return reordered(mod, self.original, self.has_token)
