"""The backward kernel for Hopper, in Gluon: dK, dV and dQ with five matrix products a tile.

A work is 64 or 128 keys of one query head (`backward_tiles.py`) with the query tiles that see them;
a program takes one after the other (`works.py`). Tiles are transposed, S^T = K Q^T, as in the
portable kernels, where the formulas stand (`../backward.py`). What a tile gives to dQ is added to
float32 sums in memory by atomics, in whatever order programs come by: dQ is not the same to the
last bit in every run, and the runtime takes the portable kernels where that was asked for.
`query_sums.py` reads the sums. A mask is evaluated, read as bits (`mask_bits.py`), or made of the
ends of rows (`row_bits.py`). What the two consumer warpgroups do with a work: `backward_shared.py`
says where that stands.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..factors import FACTOR_TENSORS, dims_of_scores
from ..kernel import Argument, Kernel, KernelSpec, Role
from ..loops import QUERIES
from ..lower import Lowering, Scope
from ..programs import write_head, write_tile
from ..tiles import descriptors, names_of_kernel
from ..writer import Block
from . import mask_bits, row_bits
from .backward_consumer import OF_KEYS_EACH
from .backward_shared import Consumers
from .backward_tiles import in_tiles, tiles_of
from .module import (
    BARRIERS,
    CONSTANTS,
    GROUP_ROWS,
    RESERVED,
    Partition,
    allocate,
    helpers_of,
    write_barriers,
    write_hopper_module,
    write_partitions,
)
from .query_sums import SIZES_OF_RESULTS, SUMS, add_query_sums
from .registers import takes_early
from .schedule import write_schedule
from .scores import Tensor, keys_of, rows_of, write_group_fetches, write_tile_fetches
from .wide import OF_ONE_RESULT_EACH
from .works import MASKED, NAMES, NEXT_WORK, NOTES, NOTHING, Works, as_masked, write_leave_tile

_ROWS: Mapping[str, int | str] = {
    **dict.fromkeys(("query", "d_out"), "BLOCK_M"),
    **dict.fromkeys(("key", "value", "d_key", "d_value"), GROUP_ROWS),
    **dict(zip(FACTOR_TENSORS, ("BLOCK_M", GROUP_ROWS), strict=True)),
}
_SIZES = (
    *("q_len", "kv_len", "q_offset", "heads", "group", *SIZES_OF_RESULTS, "part_heads"),
    *("row_stride", "q_tiles", "kv_tiles"),
)
_NUMBERS = ("lse_log2", "delta")  # float32, one a row
_NAMES = frozenset(
    """lse_log2_of_rows delta_of_rows d_scores_tiles query_sums modified slope factor left
    add_query_sums part_order first_sum LEFT HALF last d_scores_place d_query_tile
    query_free d_scores_ready results_ready backward OUT OUT_0 OUT_1 PART
    factor_tiles factor_ready keys_read consumer_of_values consumer_of_keys
    result_head head_of_sums cut nought ahead next_at tile_ahead row_ahead q_ahead""".split()  # noqa: SIM905
)


def _works(spec: KernelSpec) -> Works:
    bits = (mask_bits.BITS_TILE,) if spec.mask_bits else ()
    about = ("kv_start", "b", "h", "result_head", "head_of_sums", *bits)
    return Works("part_heads * kv_tiles", about, "key", 1, takes_early(spec))


def generate_backward(spec: KernelSpec) -> Kernel:
    """The kernel of dK, dV and the sums of dQ.

    Args:
        spec: its head dimensions are those of `cover.py`. Its closed form, where there is one, is
            of query positions for each key. Gradients of what is learned are other kernels'.

    Returns:
        A kernel whose entry is `backward`, of four warps, whose BLOCK_M and BLOCK_N are those of
        `tiles_of(D)`. Its grid is as many programs as the GPU has at a time, but no more than there
        are works: `kv_tiles` for each head of dK from `first_head` on. The counter of works is 0
        before it runs, and after. The heads may be all query heads; or the key heads, to which
        launches for one query head of each group after the other add: `member` is 0 in the first
        one.
    """
    spec = in_tiles(spec)
    tiles = tiles_of(spec.head_dim)
    consumers = OF_ONE_RESULT_EACH if tiles.wide else OF_KEYS_EACH
    fixed = _fixed_arguments(spec)
    names = names_of_kernel(fixed, RESERVED | _NAMES)
    lowering = Lowering(names, spec.clamped, spec.wide, language="gl")
    body, works = Block(1), _works(spec)
    shared = [*_write_shared_memory(body, spec, works, consumers), *consumers.barriers]
    producer = _producer(spec, works, lowering, shared, consumers.groups)
    of_consumers = consumers.partitions(spec, works, lowering, _of_consumers(spec, shared))
    write_partitions(body, [call for _, calls in of_consumers for call in calls], producer)
    functions = [BARRIERS, NOTES, add_query_sums(tiles), *helpers_of(lowering.helpers)]
    functions += [mask_bits.SPREAD] if spec.mask_bits else []
    functions += row_bits.functions(spec)
    title = "Gradients of queries, keys and values for Hopper"
    partitions = [producer, *(partition for partition, _ in of_consumers)]
    arguments = (*fixed, *lowering.arguments.values())
    return write_hopper_module(title, "backward", spec, arguments, functions, partitions, body)


def _fixed_arguments(spec: KernelSpec) -> tuple[Argument, ...]:
    """The arguments that mask, score and plan have no part in."""
    dims = {"value": spec.value_dim, "d_out": spec.value_dim, **_results(spec)}
    return (
        *descriptors({**dims_of_scores(spec), **dims}, _ROWS),
        Argument("lse_log2_rows", Role.ROWS_DESCRIPTOR, "lse_log2", 0, "BLOCK_M"),
        Argument("delta_rows", Role.ROWS_DESCRIPTOR, "delta", 0, "BLOCK_M"),
        *SUMS,
        Argument(NEXT_WORK, Role.COUNTER, NEXT_WORK),
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )


def _results(spec: KernelSpec) -> dict[str, int]:
    return {"d_key": spec.head_dim, "d_value": spec.value_dim}


def _write_key_program(body: Block, spec: KernelSpec, lowering: Lowering) -> None:
    """Write which keys the work `program` has, and which query head."""
    heads = {"heads": "result_heads", "count": "part_heads", "first_head": "first_head"}
    write_head(body, spec, "kv_tile", "gl", **heads)
    body.line("result_head = flat_head % result_heads")
    body.line("h = result_head * members + member")
    write_tile(body, spec, "kv_tile", lowering)
    body.line("kv_head = h // group")
    body.line("kv_start = kv_tile * BLOCK_N")
    body.line("kv_first = kv_start")
    body.line("kv_last = gl.minimum(kv_start + BLOCK_N, kv_len) - 1")
    body.comment("Rows of all heads stand one after the other; so do the sums, from first_head on.")
    body.line("first_row = (b * heads + h) * row_stride")
    body.line("head_of_sums = flat_head - first_head")


def _write_shared_memory(
    body: Block, spec: KernelSpec, works: Works, consumers: Consumers
) -> list[str]:
    """Write the allocations, and give the names of all but barriers."""
    groups = consumers.groups
    names = [n for t, d, _ in _of_rows(spec) for n in allocate(body, t, d, "STAGES", "BLOCK_M")]
    names += [n for t, d, _ in keys_of(spec) for n in allocate(body, t, d, groups, GROUP_ROWS)]
    names += allocate(body, "value", spec.value_dim, groups, GROUP_ROWS)
    names += consumers.write_tiles(body, spec)
    for name in _NUMBERS:
        descriptor = f"{name}_rows"
        body.line(
            f"{name}_of_rows = gl.allocate_shared_memory("
            f"gl.float32, [STAGES, BLOCK_M], {descriptor}.layout)"
        )
    works.write_notes(body)
    write_barriers(body, consumers.barriers)
    return [*names, *(f"{name}_of_rows" for name in _NUMBERS), *NAMES]


def _of_consumers(spec: KernelSpec, shared: list[str]) -> tuple[str, ...]:
    """What consumers are given beside what mask and score read."""
    return (
        *(a.name for a in descriptors(_results(spec), _ROWS)),
        *(a.name for a in SUMS),
        *("scale", "q_len", "kv_len", "q_offset", "q_tiles", "left_tiles", "member"),
        *shared,
    )


def _producer(
    spec: KernelSpec, works: Works, lowering: Lowering, shared: list[str], groups: int
) -> Partition:
    of_values = {"value": spec.value_dim, "d_out": spec.value_dim}
    of = descriptors({**dims_of_scores(spec), **of_values}, _ROWS)
    names = (*(a.name for a in of), "lse_log2_rows", "delta_rows", NEXT_WORK)
    block = Block(1)
    with works.of_producer(block) as body:
        _write_key_program(body, spec, lowering)
        scope = Scope(body.block(), None, {n: n for n in ("b", "h", "kv_first", "kv_last")})
        schedule = write_schedule(QUERIES, spec, groups * GROUP_ROWS, lowering, scope)
        if spec.mask_bits:
            mask_bits.write_first_tile(body, lowering)
        else:
            text = "Keys past the end are masked in every tile: their weights can be infinite."
            body.comment(text)
            body.line("cut = kv_start + BLOCK_N > kv_len")
        _write_fetch(body, spec, works, "first_tile", schedule.after_first)
        works.write_leave(body)
        write_group_fetches(body, works.ready, keys_of(spec), "kv_start", groups)
        value = [("value", spec.value_dim, "b, kv_head")]
        body.line("mbarrier.wait(value_free.index(0), nth_work & 1 ^ 1)")
        write_group_fetches(body, "value_ready.index(0)", value, "kv_start", groups)
        with schedule.loop(body) as loop:
            _write_fetch(loop, spec, works, QUERIES.tile, schedule.after)
    of_schedule = (a.name for a in lowering.arguments.values())
    taken = (*names, *_SIZES, *shared, *of_schedule)
    title = "One warp: brings the keys and values of each work, and tiles of queries and of dO."
    return Partition("producer", title, CONSTANTS, taken, block)


def _of_rows(spec: KernelSpec) -> list[Tensor]:
    """The tensors whose tiles of rows come together."""
    return [*rows_of(spec), ("d_out", spec.value_dim, "b, h")]


def _write_fetch(block: Block, spec: KernelSpec, works: Works, tile: str, after: str) -> None:
    """Write what brings all of a tile of rows, once its place is free, with the tile's note."""
    block.line(f"after = {after}")
    works.write_take(block)
    block.line("stage = at % STAGES")
    block.line("mbarrier.wait(query_free.index(stage), at // STAGES & 1 ^ 1)")
    # Of a table with bits those tiles are masked ones.
    masked = as_masked("after") if spec.skips else MASKED
    kind = "after" if spec.mask_bits else f"gl.where(cut & (after != {NOTHING}), {masked}, after)"
    write_leave_tile(block, tile, kind, spec.skips)
    ready, row = "query_ready.index(stage)", f"{tile} * BLOCK_M"
    write_tile_fetches(block, ready, _of_rows(spec), row, "BLOCK_M", "BLOCK_M * 8")
    for name in _NUMBERS:
        at, place = f"[first_row + {row}]", f"{name}_of_rows.index(stage)"
        block.line(f"tma.async_copy_global_to_shared({name}_rows, {at}, {ready}, {place})")
    block.line("at += 1")
