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


def tiled_grid(shape: Any, tile: Any, dilation: Any, extra: Any) -> TiledGrid:
    """The grid of those numbers.

    Raises:
        ArgumentError: not as many numbers as axes; on an axis, more classes than tokens, or a tile
            that is longer than the largest class.
    """
    rows = grid(shape)
    parts = tuple(integers_at_least(1, "tile", tile, len(rows.shape)))
    steps = tuple(integers_at_least(1, "dilation", dilation, len(rows.shape)))
    for axis, (size, part, step) in enumerate(zip(rows.shape, parts, steps, strict=True)):
        if step > size:
            raise refuse(f"dilation[{axis}] is {step}, but the grid has {size} tokens there")
        if part > (most := -(-size // step)):
            of = f" of each of {step} classes" if step > 1 else ""
            raise refuse(f"tile[{axis}] is {part}, but the grid has {most} tokens{of} there")
    return TiledGrid(rows.shape, parts, steps, integer_at_least(0, "extra", extra))


@dataclass(frozen=True)
class TiledGrid:
    """A grid in tiles, the last ones padded, and tokens after it as they are; it never changes.

    Attributes:
        shape, tile: tokens on each axis, of the grid and of a tile.
        dilation: classes of tokens on each axis, those of equal remainders; a tile has one of them.
        extra: tokens after the grid.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    dilation: tuple[int, ...]
    extra: int

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Tiles of each class on each axis."""
        steps = map(prod, zip(self.tile, self.dilation, strict=True))
        return tuple(-(-n // step) for n, step in zip(self.shape, steps, strict=True))

    @cached_property
    def whole(self) -> tuple[int, ...]:
        """Places on each axis."""
        return tuple(map(prod, zip(self.counts, self.tile, self.dilation, strict=True)))

    @cached_property
    def tokens(self) -> int:
        """Number of the grid's tokens, without the extra ones."""
        return prod(self.shape)

    @cached_property
    def places(self) -> int:
        """Number of places in the tiles, without the extra ones."""
        return prod(self.whole)

    def coordinates(self, place: Any) -> tuple[Any, ...]:
        """The grid's coordinates at a place; beyond the grid where there is padding."""
        volume, of_class = prod(self.tile), prod(self.counts)
        tile, inside = place // volume, Grid(self.tile)(place % volume)
        classes: list[Any] = [0] * len(self.shape)
        if max(self.dilation) > 1:
            classes, tile = list(Grid(self.dilation)(tile // of_class)), tile % of_class
            classes[0] %= self.dilation[0]  # by its form it is then a digit, too
        parts = zip(Grid(self.counts)(tile), self.tile, inside, self.dilation, classes, strict=True)
        return tuple((n * t + i) * step + c for n, t, i, step, c in parts)

    def original(self, place: Any) -> Any:
        """The row-major index of the token at a place; of padding, that of the token nearest."""
        axes = zip(self.coordinates(place), self.shape, self.whole, strict=True)
        found = (fx.minimum(x, size - 1) if n > size else x for x, size, n in axes)
        nearest = Grid(self.shape).index(*found)
        # A branch, not `where`: on either side of it what is asked about the index is simple.
        if self.extra and place >= self.places:
            return place - (self.places - self.tokens)
        return nearest

    def has_token(self, place: Any) -> Any:
        """Is there a token at a place, not padding?"""
        found: Any = True
        for x, size, n in zip(self.coordinates(place), self.shape, self.whole, strict=True):
            found = found and (n == size or x < size)
        return found or (self.extra > 0 and place >= self.places)
