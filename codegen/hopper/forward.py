"""The forward kernel for Hopper, in Gluon: a producer warp and consumer warpgroups.

A program stays on its multiprocessor and takes one query tile after the other (`works.py`). The
producer brings tiles into shared memory by the copy engine. Each consumer has 64 query rows; it
starts the product of the next scores, then that of the weights at hand with their values, and
computes the next softmax while the second one runs. The order of issue was found by experiment on
an H200; FlashAttention 3 (arXiv 2407.08608) describes the same overlap within a warpgroup. Masked
and full tiles share a loop: with a loop each, ptxas packed and unpacked the weights carried from
one to the other in every tile. The first tile of a work is always masked. A mask is evaluated, or
read as bits (`mask_bits.py`).
Which calls this kernel covers is said in `cover.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from flexdsl.ir import Expr

from ..factors import FACTOR_TENSORS, dims_of_scores, score_products
from ..forward import write_query_program
from ..kernel import Argument, Kernel, KernelSpec, Role, pieces
from ..loops import KEYS
from ..lower import Lowering, Scope, Text
from ..tiles import descriptors, loads_at, names_of_kernel, tile_scope, write_allowed
from ..writer import Block
from . import mask_bits
from .early_loads import Loads
from .key_loads import loads_of_keys, write_first_loads, write_keys, write_more_loads
from .module import (
    BARRIERS,
    GROUP_ROWS,
    RESERVED,
    SOFTMAX,
    Partition,
    allocate,
    helpers_of,
    matrix,
    names_of_mods,
    write_barriers,
    write_hopper_module,
    write_partitions,
)
from .outputs import (
    write_operands,
    write_rescale,
    write_results,
    write_start_out,
    write_wait_out,
    write_zeros,
)
from .registers import held_queries
from .schedule import end_of_tiles, write_schedule
from .scores import (
    keys_of,
    rows_of,
    write_group_fetches,
    write_start_scores,
    write_tile_fetches,
)
from .works import (
    MASKED,
    NAMES,
    NEXT_WORK,
    NOTES,
    NOTHING,
    Works,
    write_count,
    write_leave_tile,
    write_read_tile,
)

_SIZES = ("q_len", "kv_len", "q_offset", "heads", "all_heads", "group", "q_tiles")
_ROWS: Mapping[str, int | str] = {
    "query": GROUP_ROWS,
    "out": GROUP_ROWS,
    "key": "BLOCK_N",
    "value": "BLOCK_N",
    **dict(zip(FACTOR_TENSORS, (GROUP_ROWS, "BLOCK_N"), strict=True)),
}
_BARRIERS = {
    "query_ready": "{places}, 1",
    "query_free": "{places}, {groups}",
    "key_ready": "STAGES, 1",
    "value_ready": "STAGES, 1",
    "key_free": "STAGES, {groups}",
    "value_free": "STAGES, {groups}",
}


def _works(spec: KernelSpec) -> Works:
    """The works; there are two places for queries where shared memory is large enough for them."""
    places = 2 if sum(p.dim for p in score_products(spec)) <= 160 else 1
    bits = (mask_bits.BITS_TILE,) if spec.mask_bits else ()
    return Works("all_heads * q_tiles", ("q_start", "b", "h", *bits), "query", places)


def generate_forward(spec: KernelSpec) -> Kernel:
    """The forward kernel of a mask and a score modification.

    Returns:
        A kernel whose entry is `forward`, of four warps and BLOCK_M = 64 `spec.consumers`. Its grid
        is as many programs as the GPU has at a time, but no more than there are works:
        `q_tiles * batch * heads`. The counter of works is 0 before it
        runs, and after.
    """
    dv = spec.value_dim
    fixed = (
        *descriptors({**dims_of_scores(spec), "value": dv, "out": dv}, _ROWS),
        Argument("lse", Role.ROWS, "lse"),
        Argument(NEXT_WORK, Role.COUNTER, NEXT_WORK),
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    lowering = Lowering(names_of_kernel(fixed, RESERVED), spec.clamped, spec.wide, language="gl")
    body, groups, works = Block(1), spec.consumers, _works(spec)
    tiles = _write_shared_memory(body, spec, works)
    producer, masks = _producer(spec, works, lowering, tiles)
    consumer = Block(1)
    _write_consumer(consumer, spec, works, masks, lowering)
    arguments = (*fixed, *lowering.arguments.values())
    partitions = (
        producer,
        Partition(
            "consumer",
            "One warpgroup: output and logsumexp of 64 rows of each work.",
            ("GROUP", "BLOCK_N", "STAGES"),
            _of_consumer(spec, tiles, lowering),
            consumer,
        ),
    )
    write_partitions(body, partitions[1], partitions[0], groups)
    functions = [BARRIERS, NOTES, SOFTMAX, *helpers_of(lowering.helpers)]
    functions += [mask_bits.SPREAD] if spec.mask_bits else []
    title = "Attention forward for Hopper"
    return write_hopper_module(title, "forward", spec, arguments, functions, partitions, body)


def _write_shared_memory(body: Block, spec: KernelSpec, works: Works) -> list[str]:
    """Write the allocations, and give their names."""
    groups = spec.consumers
    tiles: list[str] = []
    for of in score_products(spec):
        tiles += allocate(body, of.rows, of.dim, works.places * groups, GROUP_ROWS)
        tiles += allocate(body, of.keys, of.dim, "STAGES", "BLOCK_N")
    tiles += allocate(body, "value", spec.value_dim, "STAGES", "BLOCK_N")
    works.write_notes(body)
    counts = {n: c.format(groups=groups, places=works.places) for n, c in _BARRIERS.items()}
    write_barriers(body, counts)
    return [*tiles, *NAMES]


def _names_of_descriptors(dims: dict[str, int]) -> list[str]:
    return [a.name for a in descriptors(dims, _ROWS)]


def _of_consumer(spec: KernelSpec, tiles: list[str], lowering: Lowering) -> tuple[str, ...]:
    return (
        *_names_of_descriptors({"out": spec.value_dim}),
        *("lse", "scale", "q_len", "kv_len", "q_offset", "heads"),
        *(*tiles, *_BARRIERS, *names_of_mods(lowering)),
    )


def _producer(
    spec: KernelSpec, works: Works, lowering: Lowering, tiles: list[str]
) -> tuple[Partition, bool]:
    """The producer, and whether a tile after a work's first one may be masked."""
    names = _names_of_descriptors({**dims_of_scores(spec), "value": spec.value_dim})
    block = Block(1)
    with works.of_producer(block) as body:
        write_query_program(body, spec, "gl")
        scope = Scope(body.block(), None, {n: n for n in ("b", "h", "q_first", "q_last")})
        schedule = write_schedule(KEYS, spec, GROUP_ROWS * spec.consumers, lowering, scope)
        if spec.mask_bits:
            mask_bits.write_first_tile(body, lowering)
        _write_key_fetch(body, spec, "first_tile", schedule.after_first)
        works.write_leave(body)
        first = f"{works.place} * {spec.consumers}" if works.places > 1 else ""
        write_group_fetches(body, works.ready, rows_of(spec), "q_start", spec.consumers, first)
        _write_value_fetch(body, spec, "first_tile")
        with schedule.loop(body) as loop:
            _write_key_fetch(loop, spec, KEYS.tile, schedule.after)
            _write_value_fetch(loop, spec, KEYS.tile)
    of_schedule = (a.name for a in lowering.arguments.values())
    taken = (*names, NEXT_WORK, *_SIZES, *tiles, *_BARRIERS, *of_schedule)
    title = "One warp: brings the query tile of each work, then its key and value tiles."
    partition = Partition("producer", title, ("BLOCK_M", "BLOCK_N", "STAGES"), taken, block)
    return partition, schedule.masks


def _write_key_fetch(block: Block, spec: KernelSpec, tile: str, after: str) -> None:
    """Write what brings the keys of a tile, once their place is free, with the tile's note."""
    block.line("stage = at % STAGES")
    block.line("phase = at // STAGES & 1 ^ 1")
    block.line("mbarrier.wait(key_free.index(stage), phase)")
    write_leave_tile(block, tile, after)
    row = f"{tile} * BLOCK_N"
    write_tile_fetches(block, "key_ready.index(stage)", keys_of(spec), row, "BLOCK_N")


def _write_value_fetch(block: Block, spec: KernelSpec, tile: str) -> None:
    """Write what brings the values of that tile."""
    block.line("mbarrier.wait(value_free.index(stage), phase)")
    value = [("value", spec.value_dim, "b, kv_head")]
    row = f"{tile} * BLOCK_N"
    write_tile_fetches(block, "value_ready.index(stage)", value, row, "BLOCK_N")
    block.line("at += 1")


def _write_consumer(
    block: Block, spec: KernelSpec, works: Works, masks: bool, lowering: Lowering
) -> None:
    _write_layouts(block, spec)
    block.line(f"zero = gl.zeros([{GROUP_ROWS}, BLOCK_N], gl.float32, SCORES)")
    with works.of_consumer(block) as body:
        first = f"{works.place} * {spec.consumers} + " if works.places > 1 else ""
        body.line(f"mine = {first}GROUP")
        _write_work(body, spec, works, masks, lowering)
        if works.places == 1:
            body.line("tma.store_wait(0)")
            works.write_free(body, works.place)
    if works.places > 1:
        block.line("tma.store_wait(0)")


def _write_work(
    body: Block, spec: KernelSpec, works: Works, masks: bool, lowering: Lowering
) -> None:
    body.line(f"row = q_start + GROUP * {GROUP_ROWS} + gl.arange(0, {GROUP_ROWS}, ROWS)")
    clipped = "gl.minimum(row, q_len - 1)" if loads_at("q", spec) else "row"
    body.line(f"q = (q_offset + {clipped})[:, None]")
    known = {"b": "b", "h": "h", "q": "q", "q_first": "(q_offset + q_start)"}
    scope = Scope(body.block(), None, known)
    body.line(f'max_log2 = gl.full([{GROUP_ROWS}], -float("inf"), gl.float32, ROWS)')
    body.line(f"total = gl.zeros([{GROUP_ROWS}], gl.float32, ROWS)")
    write_zeros(body, spec)
    if spec.mask_bits:
        mask_bits.write_words(body, KEYS, spec.consumers, "", lowering)
    for i, name in enumerate(held_queries(spec)):
        tile = matrix("query", i, "mine", GROUP_ROWS, pieces(spec.head_dim)[i][1])
        body.line(f"{name} = {tile}.load(QUERIES)")
    body.line("\n# The first tile: nothing to weigh with yet.")
    _write_start_scores(body, spec)
    if works.places > 1:
        body.comment("The place of the work before is free when its output is stored.")
        with body.indented("if nth_work > 0:") as before:
            before.line("tma.store_wait(0)")
            works.write_free(before, f"1 - {works.place}")
    loads = loads_of_keys(spec)
    early = write_first_loads(body, spec, loads, lowering, scope)
    _write_wait_scores(body, 0)
    _write_weights(body, spec, "True", early, lowering, scope)
    write_operands(body, spec)
    with body.indented(f"while after != {NOTHING}:") as tile:
        _write_step(tile, spec, masks, loads, early, lowering, scope)
    body.line("\n# The last tile's values.")
    body.line("before = counted(at - 1)")
    write_start_out(body, spec)
    write_wait_out(body, spec)
    write_results(body, spec)


def _write_layouts(body: Block, spec: KernelSpec) -> None:
    """Write the layouts: of scores, of their rows and keys, and of outputs and their operands."""
    accumulator = "gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, {}, 16])"
    body.line(f"SCORES: {accumulator.format('BLOCK_N')}")
    body.line("ROWS: gl.constexpr = gl.SliceLayout(1, SCORES)")
    body.line("KEYS: gl.constexpr = gl.SliceLayout(0, SCORES)")
    for i, (_, width) in enumerate(pieces(spec.value_dim)):
        body.line(f"OUT_{i}: {accumulator.format(width)}")
        body.line(f"WEIGHTS_{i}: gl.constexpr = gl.DotOperandLayout(0, OUT_{i}, 2)")
    if held_queries(spec):
        body.line("QUERIES: gl.constexpr = gl.DotOperandLayout(0, SCORES, 2)")
    if spec.mask_bits:
        mask_bits.write_layout(body, KEYS)


def _write_step(
    body: Block,
    spec: KernelSpec,
    masks: bool,
    loads: Loads,
    early: dict[Expr, Text],
    lowering: Lowering,
    scope: Scope,
) -> None:
    """Write the work of one tile: its scores and weights, and the values of the one before."""
    masked = "masked" if masks else ""
    if masks:
        body.line(f"masked = after == {MASKED}")
    _write_start_scores(body, spec)
    body.line("before = counted(at - 2)")
    write_start_out(body, spec)
    write_more_loads(body, spec, loads, masked, early, lowering, scope)
    if spec.mask_bits:
        mask_bits.write_words(body, KEYS, spec.consumers, masked, lowering)
    _write_wait_scores(body, len(pieces(spec.value_dim)))
    _write_weights(body, spec, masked, early, lowering, scope)
    write_wait_out(body, spec)
    write_rescale(body, spec)
    write_operands(body, spec)


def _write_start_scores(body: Block, spec: KernelSpec) -> None:
    body.line("stage = at % STAGES")
    body.line("mbarrier.wait(key_ready.index(stage), at // STAGES & 1)")
    write_count(body)
    write_start_scores(body, rows_of(spec), keys_of(spec), "BLOCK_N", "mine", held_queries(spec))
    write_read_tile(body, "kv_tile")


def _write_wait_scores(body: Block, outstanding: int) -> None:
    body.line(f"scores = warpgroup_mma_wait({outstanding}, deps=[scores])")
    body.line("mbarrier.arrive(key_free.index(stage), count=1)")


def _write_weights(
    body: Block,
    spec: KernelSpec,
    masked: str,
    early: dict[Expr, Text],
    lowering: Lowering,
    outer: Scope,
) -> None:
    """Write the modified scores, the mask, and one step of the online softmax.

    Args:
        masked: source of the bool that the mask is to be looked at; "" where it never is.
        early: source of what has been loaded for the tile's keys.
    """
    scope = tile_scope(body, outer, "kv")
    scope.known.update(early)
    if spec.score is not None:
        write_keys(scope.block, spec)
        scope.block.line("score = scores * scale")
        scope.unscaled = ("scores", "scale")
        (modified,) = lowering.lower([spec.score.expr], scope)
        scope.block.line(f"scores = {modified}")
    if masked == "True":
        _write_mask(scope.block, spec, early, lowering, outer)
    elif masked:
        with scope.block.indented(f"if {masked}:") as block:
            _write_mask(block, spec, early, lowering, outer)
    factor = "LOG2E" if spec.score is not None else "scale"
    found = "weights, rescale, max_log2, total"
    body.line(f"{found} = softmax(scores, max_log2, total, {factor})")


def _write_mask(
    block: Block, spec: KernelSpec, early: dict[Expr, Text], lowering: Lowering, outer: Scope
) -> None:
    """Write the end of the keys and the mask.

    It has a scope of its own: what the score computed may stand in registers that are needed here.
    """
    if spec.mask_bits:
        block.line(f'scores = gl.where({mask_bits.allowed(KEYS)}, scores, -float("inf"))')
        return
    if spec.score is None:
        write_keys(block, spec)
    scope = tile_scope(block, outer, "kv")
    scope.known.update(early)
    # An `if` for the end alone was tried: it made spills where there had been none.
    allowed = write_allowed(spec, lowering, scope, f"(key_index < {end_of_tiles(spec, 'kv_len')})")
    scope.block.line(f'scores = gl.where({allowed}, scores, -float("inf"))')
