"""The tiles of the backward kernel, for any head dimension that it takes.

A tile of queries has 8192 elements, in 64 or 128 columns. Tensors have so many columns, or fewer:
past their ends the copy engine brings zeros, which give nothing to a sum of products, and stores
nothing. So the kernel's text knows the columns of its tiles alone, and at D 96 it is, to the
letter, that of D 128. Half of a tile's sums of dQ: `query_sums.py`.
"""

from __future__ import annotations

from dataclasses import replace

from ..kernel import KernelSpec

COLUMNS = (64, 128)
QUERY_ELEMENTS = 8192  # of a tile of queries


def tile_columns(head_dim: int) -> int:
    """Columns of the tiles of tensors of `head_dim` columns, which are at most 128."""
    return next(columns for columns in COLUMNS if head_dim <= columns)


def query_rows(head_dim: int) -> int:
    """Rows of a tile of queries: BLOCK_M of the kernel, and of the one that reads its sums."""
    return QUERY_ELEMENTS // tile_columns(head_dim)


def in_tiles(spec: KernelSpec) -> KernelSpec:
    """The spec whose head dimensions are the columns of tiles."""
    head_dim, value_dim = (tile_columns(dim) for dim in (spec.head_dim, spec.value_dim))
    return replace(spec, head_dim=head_dim, value_dim=value_dim)
