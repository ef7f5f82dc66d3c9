"""The matrix products of a tile's scores, and the copies of tiles that one barrier waits for.

Beside queries and keys there may be the matrices of `factors.py`, which come with them and are in
the same sum. When that starts, and what it is waited for with, is for the file of each kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..factors import score_products
from ..kernel import KernelSpec, pieces
from ..writer import Block
from .module import GROUP_ROWS, matrix, tile_bytes, write_fetch

Tensor = tuple[str, int, str]  # its name, elements of a row, source of its batch and head


def rows_of(spec: KernelSpec) -> list[Tensor]:
    """The tensors of rows."""
    return [(p.rows, p.dim, p.row_plane) for p in score_products(spec)]


def keys_of(spec: KernelSpec) -> list[Tensor]:
    """The tensors of keys."""
    return [(p.keys, p.dim, p.key_plane) for p in score_products(spec)]


def write_start_scores(
    block: Block,
    mine: Sequence[Tensor],
    others: Sequence[Tensor],
    rows: str,
    index: str = "GROUP",
    held: Sequence[str] = (),
) -> int:
    """Write the start of the products of a warpgroup's 64 rows with the tile at place `stage`.

    Args:
        mine, others: tensors of the left operands and of the right ones.
        rows: of the tile.
        index: of the place of the 64 rows.
        held: sources of the left operands where they are in registers, one a product.

    Returns:
        How many products there are.
    """
    into, count = "zero, use_acc=False, is_async=True", 0
    for (left, dim, _), (right, _, _) in zip(mine, others, strict=True):
        for i, (_, width) in enumerate(pieces(dim)):
            a = held[count] if held else matrix(left, i, index, GROUP_ROWS, width)
            b = matrix(right, i, "stage", rows, width)
            block.line(f"scores = warpgroup_mma({a}, {b}.permute((1, 0)), {into})")
            into, count = "scores, is_async=True", count + 1
    return count


def write_group_fetches(
    block: Block,
    ready: str,
    tensors: Sequence[Tensor],
    start: str,
    groups: int,
    first_place: str = "",
) -> None:
    """Write the copies of 64 rows for each warpgroup; `ready` waits for all of them.

    Args:
        start: source of the first row.
        first_place: source of the place of the first group's rows; "" for 0.
    """
    size = tile_bytes(groups * GROUP_ROWS, *(dim for _, dim, _ in tensors))
    block.line(f"mbarrier.expect({ready}, {size})")
    for group in range(groups):
        row = f"{start} + {group * GROUP_ROWS}" if group else start
        place = f"{first_place} + {group}" if first_place else str(group)
        for tensor, dim, at in tensors:
            write_fetch(block, tensor, dim, at, row, GROUP_ROWS, place, ready)


def write_tile_fetches(
    block: Block, ready: str, tensors: Sequence[Tensor], row: str, rows: str, more: str = ""
) -> None:
    """Write the copies of a tile of `rows` rows to place `stage`.

    Args:
        more: source of bytes that `ready` waits for beside these; "" for none.
    """
    size = tile_bytes(rows, *(dim for _, dim, _ in tensors))
    block.line(f"mbarrier.expect({ready}, {size}{more and f' + {more}'})")
    for tensor, dim, at in tensors:
        write_fetch(block, tensor, dim, at, row, rows, "stage", ready)
