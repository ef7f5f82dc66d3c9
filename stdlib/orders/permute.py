"""Tensors and arrays from row-major order to tile order and back, by reshaping: no index tables.

It knows nothing of masks; `tile_order.py` says which order and why.
"""

from __future__ import annotations

from math import prod
from typing import Any

from ..arguments import refuse

Sizes = tuple[int, ...]


def to_tiles(x: Any, dim: int, shape: Sizes, counts: Sizes, tile: Sizes) -> Any:
    """Tokens of `dim` from a row-major grid of `shape` into counts x tile, padded with zeros."""
    lead, rest = _around(x, dim, prod(shape), "tokens of the grid")
    y = _padded(x.reshape(*lead, *shape, *rest), len(lead), shape, counts, tile)
    split = [n for pair in zip(counts, tile, strict=True) for n in pair]
    axes = len(shape)
    order = [*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)]
    y = _permuted(y.reshape(*lead, *split, *rest), len(lead), order)
    return y.reshape(*lead, prod(counts) * prod(tile), *rest)


def to_rows(x: Any, dim: int, shape: Sizes, counts: Sizes, tile: Sizes) -> Any:
    """The inverse of `to_tiles`: the padding is cut off."""
    lead, rest = _around(x, dim, prod(counts) * prod(tile), "places of the order")
    axes = len(shape)
    order = [axis for pair in zip(range(axes), range(axes, 2 * axes), strict=True) for axis in pair]
    y = _permuted(x.reshape(*lead, *counts, *tile, *rest), len(lead), order)
    whole = [n * t for n, t in zip(counts, tile, strict=True)]
    y = y.reshape(*lead, *whole, *rest)
    return y[_corner(len(lead), shape)].reshape(*lead, prod(shape), *rest)


def _around(x: Any, dim: int, length: int, meaning: str) -> tuple[Sizes, Sizes]:
    """The dimensions before and after `dim`, which has `length` places."""
    sizes = tuple(x.shape)
    if not -len(sizes) <= dim < len(sizes) or sizes[dim] != length:
        raise refuse(
            f"x has shape {sizes}, but its dimension {dim} must have {length} entries,"
            f" the {meaning}"
        )
    place = dim % len(sizes)
    return sizes[:place], sizes[place + 1 :]


def _padded(y: Any, lead: int, shape: Sizes, counts: Sizes, tile: Sizes) -> Any:
    whole = tuple(n * t for n, t in zip(counts, tile, strict=True))
    if whole == shape:
        return y
    sizes = (*y.shape[:lead], *whole, *y.shape[lead + len(shape) :])
    if hasattr(y, "new_zeros"):
        larger = y.new_zeros(sizes)
    else:
        import numpy as np

        larger = np.zeros(sizes, y.dtype)
    larger[_corner(lead, shape)] = y
    return larger


def _corner(lead: int, shape: Sizes) -> tuple[slice, ...]:
    return (*[slice(None)] * lead, *map(slice, shape))


def _permuted(y: Any, lead: int, order: list[int]) -> Any:
    axes = [*range(lead), *(lead + a for a in order), *range(lead + len(order), len(y.shape))]
    return y.permute(axes) if hasattr(y, "permute") else y.transpose(axes)
