"""Tensors and arrays from row-major order to tile order and back, by reshaping: no index tables.

It knows nothing of masks; `tile_order.py` says which order and why.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from ..arguments import refuse
from .tiled_grid import TiledGrid

Sizes = tuple[int, ...]


def to_tiles(x: Any, dim: int, grid: TiledGrid) -> Any:
    """Tokens of `dim` from row-major order into tiles, padded with zeros."""
    lead, rest = _around(x, dim, grid.tokens + grid.extra, "tokens of the grid and the extra")
    at, axes = len(lead), len(grid.shape)
    y = _slice(x, at, 0, grid.tokens).reshape(*lead, *grid.shape, *rest)
    if grid.whole != grid.shape:
        larger = _zeros(x, (*lead, *grid.whole, *rest))
        larger[_corner(at, grid.shape)] = y
        y = larger
    # An index on an axis is (tile, place in the tile, class); of an order the class is first.
    parts = zip(grid.counts, grid.tile, grid.dilation, strict=True)
    order = [axis for first in (2, 0, 1) for axis in range(first, 3 * axes, 3)]
    y = _permuted(y.reshape(*lead, *chain.from_iterable(parts), *rest), at, order)
    return _with_extra(y.reshape(*lead, grid.places, *rest), x, at, grid.extra)


def to_rows(x: Any, dim: int, grid: TiledGrid) -> Any:
    """The inverse of `to_tiles`: the padding is cut off."""
    lead, rest = _around(x, dim, grid.places + grid.extra, "places of the order")
    at, axes = len(lead), len(grid.shape)
    order = [axis for i in range(axes) for axis in (axes + i, 2 * axes + i, i)]
    y = _slice(x, at, 0, grid.places)
    y = y.reshape(*lead, *grid.dilation, *grid.counts, *grid.tile, *rest)
    y = _permuted(y, at, order).reshape(*lead, *grid.whole, *rest)
    y = y[_corner(at, grid.shape)].reshape(*lead, grid.tokens, *rest)
    return _with_extra(y, x, at, grid.extra)


def _around(x: Any, dim: int, length: int, meaning: str) -> tuple[Sizes, Sizes]:
    """The dimensions before and after `dim`, which has `length` entries."""
    sizes = tuple(x.shape)
    if not -len(sizes) <= dim < len(sizes) or sizes[dim] != length:
        raise refuse(
            f"x has shape {sizes}, but its dimension {dim} must have {length} entries,"
            f" the {meaning}"
        )
    place = dim % len(sizes)
    return sizes[:place], sizes[place + 1 :]


def _with_extra(y: Any, x: Any, at: int, extra: int) -> Any:
    """`y`, and after it the last `extra` entries of `x` in dimension `at`."""
    if not extra:
        return y
    length = y.shape[at]
    joined = _zeros(x, (*y.shape[:at], length + extra, *y.shape[at + 1 :]))
    joined[_range(at, 0, length)] = y
    joined[_range(at, length, length + extra)] = _slice(x, at, x.shape[at] - extra, x.shape[at])
    return joined


def _range(at: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*[slice(None)] * at, slice(start, stop))


def _slice(x: Any, at: int, start: int, stop: int) -> Any:
    return x[_range(at, start, stop)]


def _corner(at: int, shape: Sizes) -> tuple[slice, ...]:
    return (*[slice(None)] * at, *map(slice, shape))


def _zeros(like: Any, sizes: Sizes) -> Any:
    if hasattr(like, "new_zeros"):
        return like.new_zeros(sizes)
    import numpy as np

    return np.zeros(sizes, like.dtype)


def _permuted(y: Any, at: int, order: list[int]) -> Any:
    axes = [*range(at), *(at + a for a in order), *range(at + len(order), len(y.shape))]
    return y.permute(axes) if hasattr(y, "permute") else y.transpose(axes)
