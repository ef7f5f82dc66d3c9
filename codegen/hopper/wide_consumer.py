"""What the two consumers of the Hopper backward kernel do with a work of many columns.

dK and dV of 64 keys take (D + Dv) / 2 registers of each of 128 threads, which from D 192 on are
more than there are beside scores and dQ. So each of the two has 64 keys by the columns of one
result, and both have the same keys:

    of values   S = K Q^T, weights P                 dV += P^T dO      left half of dQ
    of keys     dP = V dO^T, dS = P slope (dP - delta)    dK += dS Q   right half of dQ

Each has two and a half of the five products of a tile. The first one gives P slope to the other one
in 16 bits, as P enters dV; that one leaves dS where both read it. dQ of a tile, dS^T K, is computed
in the step of the next one. The order of issue: S, (weights), dV, dQ of the tile before; and dP,
(dS), dQ of the tile before, dK, which is in flight over the end of the loop.

Who waits for whom. The first one stores `factor` of tile i after dS of i - 1 is there: the other one
has read `factor` of i - 1 by then, whose place it takes. The second one stores dS of tile i after
`factor` of i is there: the first one has had dQ of i - 2 by then, so two places of dS are enough.
When dS of the last tile of a work is there, values are no longer read, and dV passes their place;
dK passes that of keys once the first one has said that it is done with those.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexdsl.ir import Expr

from ..kernel import KernelSpec, pieces
from ..loops import QUERIES
from ..lower import Lowering, Scope, Text
from ..writer import Block
from . import mask_bits
from .backward_shared import (
    Consumers,
    Result,
    barriers,
    numbered,
    write_keys,
    write_layouts,
    write_next_words,
    write_wait,
    write_weights,
)
from .backward_tiles import Tiles, tiles_of
from .early_loads import loads_of
from .module import (
    CONSTANTS,
    GROUP_ROWS,
    Partition,
    accumulator,
    allocate_scores,
    matrix,
    names_of_mods,
)
from .query_sums import PART_FLOATS, part_order, unit_of
from .row_loads import write_first_loads, write_next_loads
from .scores import keys_of, rows_of, write_start_scores
from .works import FULL, MASKED, NOTHING, Works, write_count, write_read_tile

_D_SCORES_PLACES = 2
_BARRIERS = {
    "factor_ready": "1, 1",
    "d_scores_ready": f"{_D_SCORES_PLACES}, 1",
    "keys_read": "1, 1",
}


def _write_tiles(body: Block, spec: KernelSpec) -> list[str]:
    """Write the allocations of what the consumers give each other; the names."""
    body.comment("Weights times derivatives of a tile, and dS of the last two.")
    factor = allocate_scores(body, "factor_tiles", spec.head_dim, 1)
    return factor + allocate_scores(body, "d_scores_tiles", spec.head_dim, _D_SCORES_PLACES)


def _partitions(
    spec: KernelSpec, works: Works, lowering: Lowering, given: Sequence[str]
) -> list[tuple[Partition, list[str]]]:
    """The function of each consumer."""
    values, keys = Block(1), Block(1)
    _write_consumer_of_values(values, spec, works, lowering)
    _write_consumer_of_keys(keys, spec, works)
    title = "One warpgroup: {} of 64 keys of each work, and its part of dQ."
    of_values = (*given, *names_of_mods(lowering))
    partitions = (
        Partition("consumer_of_values", title.format("dV"), CONSTANTS, of_values, values),
        Partition("consumer_of_keys", title.format("dK"), CONSTANTS, tuple(given), keys),
    )
    return [(partition, [partition.call()]) for partition in partitions]


OF_ONE_RESULT_EACH = Consumers(1, barriers(1, _BARRIERS), _write_tiles, _partitions)


# Of values.


def _write_consumer_of_values(
    block: Block, spec: KernelSpec, works: Works, lowering: Lowering
) -> None:
    """Write the loop of the first consumer over works."""
    write_layouts(block)
    block.line(f"OUT: {accumulator(spec.value_dim)}")
    block.line("LEFT: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)")
    _write_sums(block, tiles_of(spec.head_dim))
    if spec.mask_bits:
        mask_bits.write_layout(block, QUERIES)
    block.line(f"zero = gl.zeros([{GROUP_ROWS}, BLOCK_M], gl.float32, SCORES)")
    with works.of_consumer(block) as body:
        _write_work_of_values(body, spec, lowering)


def _write_work_of_values(body: Block, spec: KernelSpec, lowering: Lowering) -> None:
    scope = write_keys(body, spec, "kv_start")
    body.line("first_sum = head_of_sums * left_tiles")
    body.line(f"d_value_tile = gl.zeros([{GROUP_ROWS}, {spec.value_dim}], gl.float32, OUT)")
    if spec.mask_bits:
        mask_bits.write_place(body, QUERIES, 1, lowering)
        mask_bits.write_words(body, "")
    body.line("\n# The first tile.")
    early = _write_step_of_values(body, spec, None, True, lowering, scope)
    for kind in (MASKED, FULL):
        with body.indented(f"while after == {kind}:") as tile:
            _write_step_of_values(tile, spec, early, kind == MASKED, lowering, scope)
    body.line("\n# What the last tile gives to dQ.")
    body.line("last = counted(at - 1)")
    _write_wait_d_scores(body)
    _write_start_query(body, spec, 0)
    write_wait(body, 0, _query_tiles(spec, 0))
    body.line("mbarrier.arrive(keys_read.index(0), count=1)")
    _write_add(body, spec, 0)
    ready, phase = "results_ready.index(0)", "nth_work & 1"
    Result("d_value", spec.value_dim, "value", "0", ready, phase, "kv_start", ["OUT"]).write(body)
    body.line("mbarrier.arrive(value_free.index(0), count=1)")


def _write_step_of_values(
    body: Block,
    spec: KernelSpec,
    early: dict[Expr, Text] | None,
    masked: bool,
    lowering: Lowering,
    outer: Scope,
) -> dict[Expr, Text]:
    """Write the first consumer's work of one tile; in all but the first dQ of the tile before.

    Args:
        early: source of what has been loaded for the tile's rows; None for a work's first tile.
        masked: the mask is to be looked at.

    Returns:
        The source of what is loaded for the rows of the next tile.
    """
    first, loads = early is None, loads_of("q", spec)
    _write_wait_rows(body)
    write_start_scores(body, keys_of(spec), rows_of(spec), "BLOCK_M", "0")
    write_read_tile(body, "q_tile")
    body.line("nought = note >> 31")
    if early is None:
        early = write_first_loads(body, spec, loads, lowering, outer)
    write_wait(body, 0, ["scores"])
    write_weights(body, spec, masked, early, lowering, outer)
    body.line(f"left = gl.convert_layout(weights.to(d_value_{spec.value_dim}.dtype), LEFT)")
    d_out = matrix("d_out", 0, "stage", "BLOCK_M", spec.value_dim)
    body.line(f"d_value_tile = warpgroup_mma(left, {d_out}, d_value_tile, is_async=True)")
    if not first:  # at a work's first tile it has waited already, when the work before ended
        body.line("last = counted(at - 1)")
        _write_wait_d_scores(body)
    body.line(f"factor_tiles.index(0).store(factor.to(d_value_{spec.value_dim}.dtype))")
    body.line("mbarrier.arrive(factor_ready.index(0), count=1)")
    write_next_loads(body, spec, loads, early, lowering, outer)
    if spec.mask_bits and masked:
        write_next_words(body, 1)
    products = 0 if first else _write_start_query(body, spec, 0)
    write_wait(body, products, ["d_value_tile", "left"])
    body.line("mbarrier.arrive(query_free.index(stage), count=1)")
    if not first:
        write_wait(body, 0, _query_tiles(spec, 0))
        _write_add(body, spec, 0)
    write_count(body)
    body.line("before = q_tile")
    return early


# Of keys.


def _write_consumer_of_keys(block: Block, spec: KernelSpec, works: Works) -> None:
    """Write the loop of the second consumer over works."""
    write_layouts(block)
    for layout, (_, width) in zip(_key_layouts(spec), pieces(spec.head_dim), strict=True):
        block.line(f"{layout}: {accumulator(width)}")
    _write_sums(block, tiles_of(spec.head_dim))
    block.line(f"zero = gl.zeros([{GROUP_ROWS}, BLOCK_M], gl.float32, SCORES)")
    with works.of_consumer(block) as body:
        _write_work_of_keys(body, spec)


def _key_layouts(spec: KernelSpec) -> list[str]:
    return numbered("OUT", spec.head_dim)


def _write_work_of_keys(body: Block, spec: KernelSpec) -> None:
    tiles = numbered("d_key_tile", spec.head_dim)
    body.line("first_sum = head_of_sums * q_tiles")
    for tile, layout, (_, width) in zip(
        tiles, _key_layouts(spec), pieces(spec.head_dim), strict=True
    ):
        body.line(f"{tile} = gl.zeros([{GROUP_ROWS}, {width}], gl.float32, {layout})")
    body.line("mbarrier.wait(value_ready.index(0), nth_work & 1)")
    body.line("\n# The first tile.")
    _write_step_of_keys(body, spec, True)
    with body.indented(f"while after != {NOTHING}:") as tile:
        _write_step_of_keys(tile, spec, False)
    body.line("\n# What the last tile gives to dQ.")
    body.line("last = counted(at - 1)")
    write_wait(body, 0, tiles)
    body.line("mbarrier.arrive(query_free.index(last % STAGES), count=1)")
    _write_start_query(body, spec, 1)
    write_wait(body, 0, _query_tiles(spec, 1))
    _write_add(body, spec, 1)
    factor = "scale" if spec.score is not None else "(scale * LN2)"
    for tile in tiles:
        body.line(f"{tile} *= {factor}")
    body.line("mbarrier.wait(keys_read.index(0), nth_work & 1)")
    ready, phase = "results_ready.index(1)", "nth_work & 1"
    passed = "d_key", spec.head_dim, "key", "0", ready, phase, "kv_start", _key_layouts(spec)
    Result(*passed).write(body)
    body.line("mbarrier.arrive(key_free.index(0), count=1)")


def _write_step_of_keys(body: Block, spec: KernelSpec, first: bool) -> None:
    """Write the second consumer's work of one tile; in all but the first dQ of the tile before."""
    tiles = numbered("d_key_tile", spec.head_dim)
    _write_wait_rows(body)
    write_read_tile(body, "q_tile")
    body.line("nought = note >> 31")
    values = matrix("value", 0, "nought", GROUP_ROWS, spec.value_dim)
    d_out = matrix("d_out", 0, "stage", "BLOCK_M", spec.value_dim)
    product = f"warpgroup_mma({values}, {d_out}.permute((1, 0)), zero, use_acc=False, is_async=True)"
    body.line(f"d_weights = {product}")
    if not first:
        body.line("last = counted(at - 1)")
        write_wait(body, 1, tiles)
        body.line("mbarrier.arrive(query_free.index(last % STAGES), count=1)")
    for tile in tiles:
        body.line(f"{tile} = warpgroup_mma_init({tile})")
    write_wait(body, 0, ["d_weights"])
    body.line("delta = delta_of_rows.index(stage).load(ROWS)")
    body.line("mbarrier.wait(factor_ready.index(0), at & 1)")
    body.line("factor = factor_tiles.index(0).load(SCORES).to(gl.float32)")
    dtype = f"d_value_{spec.value_dim}.dtype"
    body.line(f"d_scores = (factor * (d_weights - delta[None, :])).to({dtype})")
    body.line(f"d_scores_tiles.index(at % {_D_SCORES_PLACES}).store(d_scores)")
    body.line("fence_async_shared()")
    body.line(f"mbarrier.arrive(d_scores_ready.index(at % {_D_SCORES_PLACES}), count=1)")
    if not first:
        _write_start_query(body, spec, 1)
    left = f"d_scores_tiles.index(at % {_D_SCORES_PLACES})"
    for i, (tile, (_, width)) in enumerate(zip(tiles, pieces(spec.head_dim), strict=True)):
        queries = matrix("query", i, "stage", "BLOCK_M", width)
        body.line(f"{tile} = warpgroup_mma({left}, {queries}, {tile}, is_async=True)")
    if not first:
        write_wait(body, len(tiles), _query_tiles(spec, 1))
        _write_add(body, spec, 1)
    write_count(body)
    body.line("before = q_tile")


# Of both.


def _write_wait_rows(body: Block) -> None:
    """Write the wait for the rows of the tile at hand."""
    body.line("stage = at % STAGES")
    body.line("mbarrier.wait(query_ready.index(stage), at // STAGES & 1)")


def _write_wait_d_scores(body: Block) -> None:
    """Write the wait for dS of the tile before, `last`."""
    places = _D_SCORES_PLACES
    ready = f"d_scores_ready.index(last % {places}), last // {places} & 1"
    body.line(f"mbarrier.wait({ready})")


def _write_sums(block: Block, tiles: Tiles) -> None:
    """Write the layouts of dQ and of its sums in memory."""
    block.line(f"HALF: {accumulator(tiles.columns)}")
    block.line(f"PART: gl.constexpr = {part_order(tiles)}")
    block.line(f"part_order = gl.arange(0, {GROUP_ROWS * tiles.columns}, PART)")


def _offsets(spec: KernelSpec, group: int) -> list[int]:
    """The first columns of the products that give a consumer's half of dQ."""
    tiles = tiles_of(spec.head_dim)
    left, right = (n // PART_FLOATS * GROUP_ROWS for n in (tiles.left, tiles.right))
    start, stop = (0, left) if group == 0 else (left, left + right)
    return list(range(start, stop, tiles.columns))


def _query_tiles(spec: KernelSpec, group: int) -> list[str]:
    """Names of the accumulators of a consumer's half of dQ."""
    count = len(_offsets(spec, group))
    return ["d_query_tile"] if count == 1 else [f"d_query_tile_{i}" for i in range(count)]


def _write_start_query(body: Block, spec: KernelSpec, group: int) -> int:
    """Write the start of a consumer's half of dQ of the tile before, `last`.

    Returns:
        How many products there are.
    """
    columns, offsets = tiles_of(spec.head_dim).columns, _offsets(spec, group)
    d_scores = f"d_scores_tiles.index(last % {_D_SCORES_PLACES}).permute((1, 0))"
    for tile, offset in zip(_query_tiles(spec, group), offsets, strict=True):
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


def _write_add(body: Block, spec: KernelSpec, group: int) -> None:
    """Write the sum of a consumer's half of dQ of the tile before with what is in memory."""
    tiles, sums = tiles_of(spec.head_dim), ("left_sums", "right_sums")[group]
    times = (tiles.left, tiles.right)[group] // unit_of(tiles)
    of_tile = "first_sum + before" if times == 1 else f"(first_sum + before) * {times}"
    for n, tile in enumerate(_query_tiles(spec, group)):
        at = f"{sums} + {n * GROUP_ROWS * tiles.columns}" if n else sums
        body.line(f"add_query_sums({at}, {of_tile}, part_order, {tile})")
