"""The tiles of the backward kernels, for any head dimension that they take.

Tensors have the columns of their tiles, or fewer: past their ends the copy engine brings zeros,
which give nothing to a sum of products, and stores nothing. So a kernel's text knows the columns of
its tiles alone, and at D 96 it is, to the letter, that of D 128. How the sums of dQ of a tile lie
in memory: `query_sums.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..kernel import KernelSpec


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of one kernel.

    Attributes:
        rows: BLOCK_M, queries of a tile.
        keys: BLOCK_N, keys of a work: 128 where each consumer has dK and dV of 64, or 64 where one
            has dV of all and the other dK.
        left, right: floats from the left or right sums of a query tile to the next one's. Those of
            the left ones are half of the tile's elements, which have as many bytes in 16 bits.
        columns: of one product that gives sums.
    """

    rows: int
    keys: int
    left: int
    right: int
    columns: int = 64

    @property
    def wide(self) -> bool:
        """Has each consumer one of dK and dV, and all keys of a work?"""
        return self.keys == 64


# By the columns of queries.
_TILES = {
    64: Tiles(128, 128, 4096, 4096),
    128: Tiles(64, 128, 4096, 4096),
    192: Tiles(64, 64, 6144, 8192),
    256: Tiles(64, 64, 8192, 8192, 128),
}


def tile_columns(head_dim: int) -> int:
    """Columns of the tiles of tensors of `head_dim` columns, which are at most 256."""
    return next(columns for columns in _TILES if head_dim <= columns)


def tiles_of(head_dim: int) -> Tiles:
    """The tiles of the kernel for queries of `head_dim` columns."""
    return _TILES[tile_columns(head_dim)]


def in_tiles(spec: KernelSpec) -> KernelSpec:
    """The spec whose head dimensions are the columns of tiles."""
    head_dim, value_dim = (tile_columns(dim) for dim in (spec.head_dim, spec.value_dim))
    return replace(spec, head_dim=head_dim, value_dim=value_dim)
