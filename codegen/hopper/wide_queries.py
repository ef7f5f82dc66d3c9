"""What both consumers of the wide backward kernel do alike: waits, and their halves of dQ.

The protocol: `wide.py`. Where the sums lie in memory: `query_sums.py`.
"""

from __future__ import annotations

from ..kernel import KernelSpec, pieces
from ..writer import Block
from .backward_tiles import tiles_of
from .module import GROUP_ROWS, accumulator, matrix
from .query_sums import PART_FLOATS, part_order, unit_of

D_SCORES_PLACES = 2
VALUES, KEYS = range(2)  # consumers, by what they have the result of; also halves of dQ


def write_wait_rows(body: Block) -> None:
    """Write the wait for the rows of the tile at hand."""
    body.line("stage = at % STAGES")
    body.line("mbarrier.wait(query_ready.index(stage), at // STAGES & 1)")


def write_wait_d_scores(body: Block) -> None:
    """Write the wait for dS of the tile before, `last`."""
    places = D_SCORES_PLACES
    ready = f"d_scores_ready.index(last % {places}), last // {places} & 1"
    body.line(f"mbarrier.wait({ready})")


def write_sums(block: Block, spec: KernelSpec) -> None:
    """Write the layouts of dQ and of its sums in memory."""
    tiles = tiles_of(spec.head_dim)
    block.line(f"HALF: {accumulator(tiles.columns)}")
    block.line(f"PART: gl.constexpr = {part_order(tiles)}")
    block.line(f"part_order = gl.arange(0, {GROUP_ROWS * tiles.columns}, PART)")


def _offsets(spec: KernelSpec, group: int) -> list[int]:
    """The first columns of the products that give a consumer's half of dQ."""
    tiles = tiles_of(spec.head_dim)
    left, right = (n // PART_FLOATS * GROUP_ROWS for n in (tiles.left, tiles.right))
    start, stop = (0, left) if group == VALUES else (left, left + right)
    return list(range(start, stop, tiles.columns))


def query_tiles(spec: KernelSpec, group: int) -> list[str]:
    """Names of the accumulators of a consumer's half of dQ."""
    count = len(_offsets(spec, group))
    return ["d_query_tile"] if count == 1 else [f"d_query_tile_{i}" for i in range(count)]


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
