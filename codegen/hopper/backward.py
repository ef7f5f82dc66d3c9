"""The backward kernel for Hopper, in Gluon: dK, dV and dQ with five matrix products a tile.

A program has 128 keys of one query head, 64 for each of two consumer warpgroups, and goes through
the query tiles that see them. Tiles are transposed, S^T = K Q^T, as in the portable kernels, where
the formulas stand (`backward.py`). What a tile gives to dQ is added to float32 sums in memory by
atomics, in whatever order programs come by: dQ is not the same to the last bit in every run, and
the runtime takes the portable kernels where that was asked for. `query_sums.py` reads the sums.

Order of issue: S, dP, (weights), dV, (dS), dQ of the tile before, dK. dK is in flight over the end
of the loop, where nothing reads it; if anything else is, ptxas runs one product after the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from flexdsl.analysis.derivative import derivatives
from flexdsl.ir import Expr, const, var

from ..factors import FACTOR_TENSORS, dims_of_scores
from ..kernel import Argument, Kernel, KernelSpec, Role
from ..loops import QUERIES
from ..lower import Lowering, Scope, Text
from ..programs import write_program
from ..tiles import descriptors, loads_at, names_of_kernel, tile_scope, write_allowed
from ..writer import Block
from .module import (
    BARRIERS,
    GROUP_ROWS,
    RESERVED,
    Partition,
    allocate,
    helpers_of,
    matrix,
    names_of_mods,
    tile_bytes,
    write_barriers,
    write_hopper_module,
    write_partitions,
)
from .query_sums import ADD_QUERY_SUMS, PART, SIZES_OF_RESULTS, SUMS
from .row_loads import loads_of_rows, write_loads, write_next_loads, write_rows
from .schedule import Schedule, Walk, end_of_tiles, write_schedule
from .scores import (
    keys_of,
    rows_of,
    write_group_fetches,
    write_start_scores,
    write_tile_fetches,
)

GROUPS = 2
_ROWS: Mapping[str, int | str] = {
    **dict.fromkeys(("query", "d_out"), "BLOCK_M"),
    **dict.fromkeys(("key", "value", "d_key", "d_value"), GROUP_ROWS),
    **dict(zip(FACTOR_TENSORS, ("BLOCK_M", GROUP_ROWS), strict=True)),
}
_SIZES = (
    *("q_len", "kv_len", "q_offset", "heads", "group", *SIZES_OF_RESULTS, "part_heads"),
    *("row_stride", "q_tiles", "kv_tiles"),
)
_BARRIERS = {
    "key_ready": "1, 1",
    "value_ready": "1, 1",
    "query_ready": "STAGES, 1",
    "query_free": "STAGES, {groups}",
    "d_out_ready": "{d_out}, 1",
    "d_out_free": "{d_out}, {groups}",
    "d_scores_ready": "2, {groups}",
    "d_scores_free": "2, {groups}",
    "results_ready": "{groups}, 1",
}
# Places for tiles of dO, by the head dimension: what is left of shared memory.
_D_OUT_STAGES = {64: 3, 128: 2}
_NAMES = frozenset(
    """lse_of_rows delta_of_rows d_scores_tiles query_sums modified slope factor left
    add_query_sums part_order first_sum LEFT HALF stage_d stage_s other d_query_tile
    d_out_ready d_out_free query_free d_scores_ready d_scores_free results_ready backward
    result_head head_of_sums""".split()  # noqa: SIM905
)


def generate_backward(spec: KernelSpec) -> Kernel:
    """The kernel of dK, dV and the sums of dQ.

    Args:
        spec: its head dimensions are equal, 64 or 128; nothing captured is learned. Its closed
            form, where there is one, is of query positions for each key.

    Returns:
        A kernel whose entry is `backward` and whose grid is `kv_tiles` programs of four warps for
        each head of dK from `first_head` on, BLOCK_N = 128 and BLOCK_M = 8192 / D. Those may be all
        query heads; or the key heads, to which launches for one query head of each group after the
        other add: `member` is 0 in the first one.
    """
    dim = spec.head_dim
    others = dict.fromkeys(("value", "d_out", "d_key", "d_value"), dim)
    fixed = (
        *descriptors({**dims_of_scores(spec), **others}, _ROWS),
        Argument("lse_log2_rows", Role.ROWS_DESCRIPTOR, "lse_log2", 0, "BLOCK_M"),
        Argument("delta_rows", Role.ROWS_DESCRIPTOR, "delta", 0, "BLOCK_M"),
        *SUMS,
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    names = names_of_kernel(fixed, RESERVED | _NAMES)
    lowering = Lowering(names, spec.clamped, spec.wide, language="gl")
    body = Block(1)
    _write_key_program(body)
    scope = Scope(body.block(), None, {n: n for n in ("b", "h", "kv_first", "kv_last")})
    scope.block.comment(
        "Keys past the end are masked in every tile: their weights can be infinite."
    )
    cut = "kv_start + BLOCK_N > kv_len"
    schedule = write_schedule(QUERIES, spec, GROUPS * GROUP_ROWS, lowering, scope, cut)
    tiles = _write_shared_memory(body, spec)
    consumer = Block(1)
    _write_consumer(consumer, spec, schedule, lowering)
    arguments = (*fixed, *lowering.arguments.values())
    partitions = (
        _producer(spec, schedule, tiles),
        Partition(
            "consumer",
            "One warpgroup: dK and dV of 64 keys, and their part of dQ.",
            ("GROUP", "BLOCK_M", "BLOCK_N", "STAGES"),
            _of_consumer(spec, schedule, tiles, lowering),
            consumer,
        ),
    )
    write_partitions(body, partitions[1], partitions[0], GROUPS)
    functions = [BARRIERS, ADD_QUERY_SUMS, *helpers_of(lowering.helpers)]
    title = "Gradients of queries, keys and values for Hopper"
    return write_hopper_module(title, "backward", spec, arguments, functions, partitions, body)


def _write_key_program(body: Block) -> None:
    """Write which keys the program has, and which query head."""
    heads = {"heads": "result_heads", "count": "part_heads", "first_head": "first_head"}
    body.line("program = gl.program_id(0)")
    write_program(body, "kv_tile", "gl", **heads, last_first=False)
    body.line("result_head = flat_head % result_heads")
    body.line("h = result_head * members + member")
    body.line("kv_head = h // group")
    body.line("kv_start = kv_tile * BLOCK_N")
    body.line("kv_first = kv_start")
    body.line("kv_last = gl.minimum(kv_start + BLOCK_N, kv_len) - 1")
    body.comment("Rows of all heads stand one after the other; so do the sums, from first_head on.")
    body.line("first_row = (b * heads + h) * row_stride")
    body.line("head_of_sums = flat_head - first_head")


def _write_shared_memory(body: Block, spec: KernelSpec) -> list[str]:
    """Write the allocations, and give their names."""
    dim = spec.head_dim
    places = _D_OUT_STAGES[dim]
    names = [n for t, d, _ in rows_of(spec) for n in allocate(body, t, d, "STAGES", "BLOCK_M")]
    names += allocate(body, "d_out", dim, places, "BLOCK_M")
    names += [n for t, d, _ in keys_of(spec) for n in allocate(body, t, d, GROUPS, GROUP_ROWS)]
    names += allocate(body, "value", dim, GROUPS, GROUP_ROWS)
    body.comment("dS of two tiles, for each of them 64 keys of each consumer.")
    body.line(
        f"d_scores_tiles = gl.allocate_shared_memory(query_{dim}.dtype, [4, {GROUP_ROWS}, BLOCK_M],"
        f" gl.NVMMASharedLayout.get_default_for([{GROUP_ROWS}, BLOCK_M], query_{dim}.dtype))"
    )
    for name, rows, count in (("lse", "lse_log2", "STAGES"), ("delta", "delta", places)):
        descriptor = f"{rows}_rows"
        body.line(
            f"{name}_of_rows = gl.allocate_shared_memory("
            f"gl.float32, [{count}, BLOCK_M], {descriptor}.layout)"
        )
    counts = {n: text.format(groups=GROUPS, d_out=places) for n, text in _BARRIERS.items()}
    write_barriers(body, counts)
    return [*names, "d_scores_tiles", "lse_of_rows", "delta_of_rows"]


def _of_consumer(
    spec: KernelSpec, schedule: Schedule, tiles: list[str], lowering: Lowering
) -> tuple[str, ...]:
    dims = {"d_key": spec.head_dim, "d_value": spec.value_dim}
    return (
        *(a.name for a in descriptors(dims, _ROWS)),
        *(a.name for a in SUMS),
        *("scale", "q_len", "kv_len", "q_offset", "b", "h", "kv_start", "q_tiles", "left_tiles"),
        *("result_head", "member", "head_of_sums"),
        *(*tiles, *_BARRIERS, *schedule.handed, *names_of_mods(lowering)),
    )


def _producer(spec: KernelSpec, schedule: Schedule, tiles: list[str]) -> Partition:
    dim = spec.head_dim
    of = descriptors({**dims_of_scores(spec), "value": dim, "d_out": dim}, _ROWS)
    names = (*(a.name for a in of), "lse_log2_rows", "delta_rows")
    body = Block(1)
    value = [("value", dim, "b, kv_head")]
    for name, tensors in (("key", keys_of(spec)), ("value", value)):
        write_group_fetches(body, f"{name}_ready.index(0)", tensors, "kv_start", GROUPS)
    body.line("q_tile = first_tile\nstep = 0")
    _write_fetches(body, spec)
    with schedule.loop(body) as tile:
        _write_fetches(tile, spec)
    handed = schedule.handed
    taken = (*names, "b", "h", "kv_head", "kv_start", "first_row", *tiles, *_BARRIERS, *handed)
    title = "One warp: brings the keys and values, then each tile of queries and of dO."
    return Partition("producer", title, ("BLOCK_M", "BLOCK_N", "STAGES"), taken, body)


def _write_fetches(block: Block, spec: KernelSpec) -> None:
    """Write what brings the queries, their logsumexp, dO and delta of `q_tile`."""
    dim, row = spec.head_dim, "q_tile * BLOCK_M"
    for name, tensors, rows, places in (
        ("query", rows_of(spec), "lse_log2", "STAGES"),
        ("d_out", [("d_out", dim, "b, h")], "delta", _D_OUT_STAGES[dim]),
    ):
        ready = f"{name}_ready.index(stage)"
        block.line(f"stage = step % {places}")
        block.line(f"mbarrier.wait({name}_free.index(stage), step // {places} & 1 ^ 1)")
        write_tile_fetches(block, ready, tensors, row, "BLOCK_M", "BLOCK_M * 4")
        place = f"{rows.removesuffix('_log2')}_of_rows.index(stage)"
        at = f"[first_row + {row}]"
        block.line(f"tma.async_copy_global_to_shared({rows}_rows, {at}, {ready}, {place})")


def _write_consumer(body: Block, spec: KernelSpec, schedule: Schedule, lowering: Lowering) -> None:
    dim = spec.head_dim
    _write_layouts(body, dim)
    keys = f"kv_start + GROUP * {GROUP_ROWS} + gl.arange(0, {GROUP_ROWS}, KEYS)"
    body.line(f"key_index = ({keys})[:, None]")
    clipped = "gl.minimum(key_index, kv_len - 1)" if loads_at("kv", spec) else "key_index"
    body.line(f"kv = {clipped}")
    scope = Scope(body.block(), None, {n: n for n in ("b", "h", "kv")})
    body.comment("Each consumer has its half of every tile's sums.")
    body.line("query_sums = left_sums if GROUP == 0 else right_sums")
    body.line("first_sum = head_of_sums * (left_tiles if GROUP == 0 else q_tiles)")
    body.line("part_order = gl.arange(0, 4096, PART)")
    body.line(f"zero = gl.zeros([{GROUP_ROWS}, BLOCK_M], gl.float32, SCORES)")
    body.line(f"d_value_tile = gl.zeros([{GROUP_ROWS}, {dim}], gl.float32, OUT)")
    body.line(f"d_key_tile = gl.zeros([{GROUP_ROWS}, {dim}], gl.float32, OUT)")
    body.line("mbarrier.wait(key_ready.index(0), 0)")
    body.line("mbarrier.wait(value_ready.index(0), 0)")
    body.line("\n# The first tile.")
    body.line("q_tile = first_tile\nstep = 0")
    _write_step(body, spec, None, lowering, scope)
    body.line("before = q_tile")
    for loop in schedule.loops(body):
        _write_step(loop.body, spec, loop, lowering, scope)
        loop.body.line("before = q_tile")
    body.line("\n# What the last tile gives to dQ.")
    body.line("d_key_tile = warpgroup_mma_wait(0, deps=[d_key_tile])")
    body.line(f"other = {schedule.last_step} % 2")
    body.line(f"mbarrier.wait(d_scores_ready.index(other), {schedule.last_step} // 2 & 1)")
    _write_start_query(body, dim)
    body.line("d_query_tile = warpgroup_mma_wait(0, deps=[d_query_tile])")
    body.line("add_query_sums(query_sums, first_sum + before, part_order, d_query_tile)")
    _write_results(body, spec)


def _write_layouts(body: Block, dim: int) -> None:
    accumulator = "gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, {}, 16])"
    body.line(f"SCORES: {accumulator.format('BLOCK_M')}")
    body.line("KEYS: gl.constexpr = gl.SliceLayout(1, SCORES)")
    body.line("ROWS: gl.constexpr = gl.SliceLayout(0, SCORES)")
    body.line(f"OUT: {accumulator.format(dim)}")
    body.line("LEFT: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)")
    body.line(f"HALF: {accumulator.format(64)}")
    body.line(f"PART: gl.constexpr = {PART}")


def _write_step(
    body: Block, spec: KernelSpec, loop: Walk | None, lowering: Lowering, outer: Scope
) -> None:
    """Write the work of one tile, and in all but the first dQ of the tile before.

    Args:
        loop: what `body` is of; None for the first tile.
    """
    dim, first, masked = spec.head_dim, loop is None, loop is None or loop.masked
    places = _D_OUT_STAGES[dim]
    body.line("stage = step % STAGES")
    body.line("mbarrier.wait(query_ready.index(stage), step // STAGES & 1)")
    values = matrix("value", 0, "GROUP", GROUP_ROWS, dim)
    queries = matrix("query", 0, "stage", "BLOCK_M", dim)
    start = "zero, use_acc=False, is_async=True"
    of_scores = write_start_scores(body, keys_of(spec), rows_of(spec), "BLOCK_M")
    loads = loads_of_rows(spec, masked)
    early = write_loads(body, spec, loads, "q_tile", "", lowering, outer) if loop is None else {}
    if loop is not None and loads:
        early = write_loads(loop.before, spec, loads, loop.first, "_ahead", lowering, outer)
    if not first:
        body.line(f"d_key_tile = warpgroup_mma_wait({of_scores}, deps=[d_key_tile])")
        body.line("d_key_tile = warpgroup_mma_init(d_key_tile)")
        body.line("mbarrier.arrive(query_free.index((step - 1) % STAGES), count=1)")
    body.line(f"stage_d = step % {places}")
    body.line(f"mbarrier.wait(d_out_ready.index(stage_d), step // {places} & 1)")
    d_out = matrix("d_out", 0, "stage_d", "BLOCK_M", dim)
    body.line(f"d_weights = warpgroup_mma({values}, {d_out}.permute((1, 0)), {start})")
    body.line("scores = warpgroup_mma_wait(1, deps=[scores])")
    _write_weights(body, spec, masked, early, lowering, outer)
    body.line(f"left = gl.convert_layout(weights.to(d_key_{dim}.dtype), LEFT)")
    body.line(f"d_value_tile = warpgroup_mma(left, {d_out}, d_value_tile, is_async=True)")
    body.line("d_weights = warpgroup_mma_wait(1, deps=[d_weights])")
    body.line("delta = delta_of_rows.index(stage_d).load(ROWS)")
    body.line(f"d_scores = (factor * (d_weights - delta[None, :])).to(d_key_{dim}.dtype)")
    body.line("stage_s = step % 2")
    body.line("mbarrier.wait(d_scores_free.index(stage_s), step // 2 & 1 ^ 1)")
    body.line("d_scores_tiles.index(stage_s * 2 + GROUP).store(d_scores)")
    body.line("fence_async_shared()")
    body.line("mbarrier.arrive(d_scores_ready.index(stage_s), count=1)")
    if loop is not None and loads:
        write_next_loads(body, spec, loads, loop, early, lowering, outer)
    if not first:
        body.line("other = (step - 1) % 2")
        body.line("mbarrier.wait(d_scores_ready.index(other), (step - 1) // 2 & 1)")
        _write_start_query(body, dim)
    into = "warpgroup_mma_init(d_key_tile)" if first else "d_key_tile"
    left = "d_scores_tiles.index(stage_s * 2 + GROUP)"
    body.line(f"d_key_tile = warpgroup_mma({left}, {queries}, {into}, is_async=True)")
    outstanding = 1 if first else 3
    waited = f"warpgroup_mma_wait({outstanding}, deps=[d_value_tile, left])"
    body.line(f"d_value_tile, left = {waited}")
    body.line("mbarrier.arrive(d_out_free.index(stage_d), count=1)")
    if not first:
        body.line("d_query_tile = warpgroup_mma_wait(1, deps=[d_query_tile])")
        body.line("mbarrier.arrive(d_scores_free.index(other), count=1)")
        body.line("add_query_sums(query_sums, first_sum + before, part_order, d_query_tile)")


def _write_start_query(body: Block, dim: int) -> None:
    """Write the start of this consumer's part of dQ, 64 by 64, from dS at place `other`.

    Of 64 rows by 128 columns each consumer has 64 columns, of 128 by 64 each has 64 rows.
    """
    body.line(f"d_query_tile = gl.zeros([{GROUP_ROWS}, 64], gl.float32, HALF)")
    for group in range(GROUPS):
        d_scores = f"d_scores_tiles.index(other * 2 + {group})"
        keys = matrix("key", 0, str(group), GROUP_ROWS, dim)
        if dim == 64:
            d_scores = f"{d_scores}.slice(GROUP * 64, 64, dim=1)"
        else:
            keys = f"{keys}.slice(GROUP * 64, 64, dim=1)"
        options = "is_async=True" if group else "use_acc=False, is_async=True"
        product = f"warpgroup_mma({d_scores}.permute((1, 0)), {keys}, d_query_tile, {options})"
        body.line(f"d_query_tile = {product}")


def _write_weights(
    body: Block,
    spec: KernelSpec,
    masked: bool,
    early: dict[Expr, Text],
    lowering: Lowering,
    outer: Scope,
) -> None:
    """Write the weights and `factor`, the product of weights and derivatives of the scores.

    Args:
        early: source of what was computed for the tile before.
    """
    scope, log2 = tile_scope(body, outer, "q"), "scale"
    scope.known.update(early)
    slope = "1.0"
    if masked or spec.score is not None:
        write_rows(scope.block, spec)
    if spec.score is not None:
        score = spec.score.expr
        scope.block.line("score = scores * scale")
        scope.unscaled = ("scores", "scale")
        (modified,) = lowering.lower([score], scope)
        (slope,) = lowering.lower(
            [derivatives(score).get(var("score"), const(0.0))], scope, "slope"
        )
        scope.block.line(f"scores = {modified}")
        log2 = "LOG2E"
    scope.block.line("lse_log2 = lse_of_rows.index(stage).load(ROWS)")
    scope.block.line(f"weights = gl.exp2(scores * {log2} - lse_log2[None, :])")
    if masked:
        ends = f"(row < {end_of_tiles(spec, 'q_len')}) & (key_index < kv_len)"
        allowed = write_allowed(spec, lowering, scope, ends)
        scope.block.line(f"weights = gl.where({allowed}, weights, 0.0)")
    scope.block.line("factor = weights" if slope == "1.0" else f"factor = weights * {slope}")


def _write_results(body: Block, spec: KernelSpec) -> None:
    """Write the stores. The values of this consumer are no longer read: they make place."""
    dim = spec.head_dim
    factor = "scale" if spec.score is not None else "(scale * LN2)"
    place, tile = matrix("value", 0, "GROUP", GROUP_ROWS, dim), "value_tiles_0.index(GROUP)"
    at = f"[b, result_head, kv_start + GROUP * {GROUP_ROWS}, 0]"
    ready = "results_ready.index(GROUP)"
    body.line(f"d_key_tile *= {factor}")
    for phase, tensor in enumerate(("d_value", "d_key")):
        with body.indented("if member > 0:") as more:
            more.comment("What the query heads before this one gave.")
            more.line(f"mbarrier.expect({ready}, {tile_bytes(GROUP_ROWS, dim)})")
            more.line(f"tma.async_copy_global_to_shared({tensor}_{dim}, {at}, {ready}, {tile})")
            more.line(f"mbarrier.wait({ready}, {phase})")
            more.line(f"{tensor}_tile += {place}.load(OUT).to(gl.float32)")
        body.line(f"{place}.store({tensor}_tile.to({tensor}_{dim}.dtype))")
        body.line("fence_async_shared()")
        body.line(f"tma.async_copy_shared_to_global({tensor}_{dim}, {at}, {tile})")
        body.line("tma.store_wait(0)")
