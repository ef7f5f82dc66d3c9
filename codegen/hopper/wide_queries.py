"""What both consumers of the wide backward kernel do alike: their halves of dQ.

The protocol: `wide.py`. Where the sums lie in memory: `query_sums.py`.
"""

from __future__ import annotations

from ..kernel import KernelSpec, pieces
from ..writer import Block
from .backward_shared import numbered
from .backward_tiles import tiles_of
from .module import GROUP_ROWS, matrix
from .query_sums import PART_FLOATS, unit_of

D_SCORES_PLACES = 2
VALUES, KEYS = range(2)  # consumers, by what they have the result of; also halves of dQ


def write_wait_d_scores(body: Block) -> None:
    """Write the wait for dS of the tile before, `last`."""
    places = D_SCORES_PLACES
    ready = f"d_scores_ready.index(last % {places}), last // {places} & 1"
    body.line(f"mbarrier.wait({ready})")


def _offsets(spec: KernelSpec, group: int) -> list[int]:
    """The first columns of the products that give a consumer's half of dQ."""
    tiles = tiles_of(spec.head_dim)
    left, right = (n // PART_FLOATS * GROUP_ROWS for n in (tiles.left, tiles.right))
    start, stop = (0, left) if group == VALUES else (left, left + right)
    return list(range(start, stop, tiles.columns))


def query_tiles(spec: KernelSpec, group: int) -> list[str]:
    """Names of the accumulators of a consumer's half of dQ."""
    return numbered("d_query_tile", len(_offsets(spec, group)))


def write_start_query(body: Block, spec: KernelSpec, group: int) -> int:
    """Write the start of a consumer's half of dQ of the tile before, `last`.

    Returns:
        How many products there are.
    """
    columns, offsets = tiles_of(spec.head_dim).columns, _offsets(spec, group)
    d_scores = f"d_scores_tiles.index(last % {D_SCORES_PLACES}).permute((1, 0))"
    for tile, offset in zip(query_tiles(spec, group), offsets, strict=True):
        piece, (first, width) = next(
            (i, p) for i, p in reversed(list(enumerate(pieces(spec.head_dim)))) if p[0] <= offset
        )
        keys = matrix("key", piece, "nought", GROUP_ROWS, width)
        if width > columns:
            keys += f".slice({offset - first}, {columns}, dim=1)"
        body.line(f"{tile} = gl.zeros([{GROUP_ROWS}, {columns}], gl.float32, HALF)")
        product = f"{d_scores}, {keys}, {tile}, use_acc=False, is_async=True"
        body.line(f"{tile} = warpgroup_mma({product})")
    return len(offsets)


def write_add(body: Block, spec: KernelSpec, group: int) -> None:
    """Write the sum of a consumer's half of dQ of the tile before with what is in memory."""
    tiles, sums = tiles_of(spec.head_dim), ("left_sums", "right_sums")[group]
    times = (tiles.left, tiles.right)[group] // unit_of(tiles)
    of_tile = "first_sum + before" if times == 1 else f"(first_sum + before) * {times}"
    for n, tile in enumerate(query_tiles(spec, group)):
        at = f"{sums} + {n * GROUP_ROWS * tiles.columns}" if n else sums
        body.line(f"add_query_sums({at}, {of_tile}, part_order, {tile})")
