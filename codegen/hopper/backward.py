"""The backward kernel for Hopper, in Gluon: dK, dV and dQ with five matrix products a tile.

A work is 128 keys of one query head, 64 for each of two consumer warpgroups, with the query tiles
that see them; a program takes one after the other (`works.py`). Tiles are transposed, S^T = K Q^T,
as in the portable kernels, where the formulas stand (`../backward.py`). What a tile gives to dQ is
added to float32 sums in memory by atomics, in whatever order programs come by: dQ is not the same
to the last bit in every run, and the runtime takes the portable kernels where that was asked for.
`query_sums.py` reads the sums. A mask is evaluated, or read as bits (`mask_bits.py`). What a
consumer does with its keys: `backward_consumer.py`.
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
from . import mask_bits
from .backward_consumer import D_SCORES_PLACES, GROUPS, write_consumer
from .backward_tiles import in_tiles
from .module import (
    BARRIERS,
    GROUP_ROWS,
    RESERVED,
    Partition,
    allocate,
    helpers_of,
    names_of_mods,
    write_barriers,
    write_hopper_module,
    write_partitions,
)
from .query_sums import ADD_QUERY_SUMS, SIZES_OF_RESULTS, SUMS
from .schedule import write_schedule
from .scores import Tensor, keys_of, rows_of, write_group_fetches, write_tile_fetches
from .works import MASKED, NAMES, NEXT_WORK, NOTES, NOTHING, Works, write_leave_tile

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
    "key_free": "1, {groups}",
    "value_ready": "1, 1",
    "value_free": "1, {groups}",
    "query_ready": "STAGES, 1",
    "query_free": "STAGES, {groups}",
    "d_scores_ready": "{d_scores}, 1",
    "results_ready": "{groups}, 1",
}
_NUMBERS = ("lse_log2", "delta")  # float32, one a row
_NAMES = frozenset(
    """lse_log2_of_rows delta_of_rows d_scores_tiles query_sums modified slope factor left
    add_query_sums part_order first_sum LEFT HALF last d_scores_place d_query_tile
    query_free d_scores_ready results_ready backward
    result_head head_of_sums cut nought ahead next_at tile_ahead row_ahead q_ahead""".split()  # noqa: SIM905
)


def _works(spec: KernelSpec) -> Works:
    bits = (mask_bits.BITS_TILE,) if spec.mask_bits else ()
    about = ("kv_start", "b", "h", "result_head", "head_of_sums", *bits)
    return Works("part_heads * kv_tiles", about, "key", 1)


def generate_backward(spec: KernelSpec) -> Kernel:
    """The kernel of dK, dV and the sums of dQ.

    Args:
        spec: its head dimensions are equal, at most 128; nothing captured is learned. Its closed
            form, where there is one, is of query positions for each key.

    Returns:
        A kernel whose entry is `backward`, of four warps, BLOCK_N = 128 and BLOCK_M =
        `query_rows(D)`. Its grid is as many programs as the GPU has at a time, but no more than
        there are works:
        `kv_tiles` for each head of dK from `first_head` on. The counter of works is 0 before it
        runs, and after. The heads may be all query heads; or the key heads, to which launches for
        one query head of each group after the other add: `member` is 0 in the first one.
    """
    spec = in_tiles(spec)
    dim = spec.head_dim
    others = dict.fromkeys(("value", "d_out", "d_key", "d_value"), dim)
    fixed = (
        *descriptors({**dims_of_scores(spec), **others}, _ROWS),
        Argument("lse_log2_rows", Role.ROWS_DESCRIPTOR, "lse_log2", 0, "BLOCK_M"),
        Argument("delta_rows", Role.ROWS_DESCRIPTOR, "delta", 0, "BLOCK_M"),
        *SUMS,
        Argument(NEXT_WORK, Role.COUNTER, NEXT_WORK),
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    names = names_of_kernel(fixed, RESERVED | _NAMES)
    lowering = Lowering(names, spec.clamped, spec.wide, language="gl")
    body, works = Block(1), _works(spec)
    tiles = _write_shared_memory(body, spec, works)
    producer = _producer(spec, works, lowering, tiles)
    consumer = Block(1)
    write_consumer(consumer, spec, works, lowering)
    arguments = (*fixed, *lowering.arguments.values())
    partitions = (
        producer,
        Partition(
            "consumer",
            "One warpgroup: dK and dV of 64 keys of each work, and their part of dQ.",
            ("GROUP", "BLOCK_M", "BLOCK_N", "STAGES"),
            _of_consumer(spec, tiles, lowering),
            consumer,
        ),
    )
    write_partitions(body, partitions[1], partitions[0], GROUPS)
    functions = [BARRIERS, NOTES, ADD_QUERY_SUMS, *helpers_of(lowering.helpers)]
    functions += [mask_bits.SPREAD] if spec.mask_bits else []
    title = "Gradients of queries, keys and values for Hopper"
    return write_hopper_module(title, "backward", spec, arguments, functions, partitions, body)


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


def _write_shared_memory(body: Block, spec: KernelSpec, works: Works) -> list[str]:
    """Write the allocations, and give their names."""
    dim, places = spec.head_dim, sum(D_SCORES_PLACES)
    names = [n for t, d, _ in _of_rows(spec) for n in allocate(body, t, d, "STAGES", "BLOCK_M")]
    names += [n for t, d, _ in keys_of(spec) for n in allocate(body, t, d, GROUPS, GROUP_ROWS)]
    names += allocate(body, "value", dim, GROUPS, GROUP_ROWS)
    body.comment("dS of 64 keys: the first consumer's last three tiles, the second one's last two.")
    body.line(
        f"d_scores_tiles = gl.allocate_shared_memory("
        f"query_{dim}.dtype, [{places}, {GROUP_ROWS}, BLOCK_M],"
        f" gl.NVMMASharedLayout.get_default_for([{GROUP_ROWS}, BLOCK_M], query_{dim}.dtype))"
    )
    for name in _NUMBERS:
        descriptor = f"{name}_rows"
        body.line(
            f"{name}_of_rows = gl.allocate_shared_memory("
            f"gl.float32, [STAGES, BLOCK_M], {descriptor}.layout)"
        )
    counts = {n: text.format(groups=GROUPS, d_scores=places) for n, text in _BARRIERS.items()}
    works.write_notes(body)
    write_barriers(body, counts)
    of_rows = (f"{name}_of_rows" for name in _NUMBERS)
    return [*names, "d_scores_tiles", *of_rows, *NAMES]


def _of_consumer(spec: KernelSpec, tiles: list[str], lowering: Lowering) -> tuple[str, ...]:
    dims = {"d_key": spec.head_dim, "d_value": spec.value_dim}
    return (
        *(a.name for a in descriptors(dims, _ROWS)),
        *(a.name for a in SUMS),
        *("scale", "q_len", "kv_len", "q_offset", "q_tiles", "left_tiles", "member"),
        *(*tiles, *_BARRIERS, *names_of_mods(lowering)),
    )


def _producer(spec: KernelSpec, works: Works, lowering: Lowering, tiles: list[str]) -> Partition:
    dim = spec.head_dim
    of = descriptors({**dims_of_scores(spec), "value": dim, "d_out": dim}, _ROWS)
    names = (*(a.name for a in of), "lse_log2_rows", "delta_rows", NEXT_WORK)
    block = Block(1)
    with works.of_producer(block) as body:
        _write_key_program(body, spec, lowering)
        scope = Scope(body.block(), None, {n: n for n in ("b", "h", "kv_first", "kv_last")})
        schedule = write_schedule(QUERIES, spec, GROUPS * GROUP_ROWS, lowering, scope)
        if spec.mask_bits:
            mask_bits.write_first_tile(body, lowering)
        else:
            text = "Keys past the end are masked in every tile: their weights can be infinite."
            body.comment(text)
            body.line("cut = kv_start + BLOCK_N > kv_len")
        _write_fetch(body, spec, works, "first_tile", schedule.after_first)
        works.write_leave(body)
        write_group_fetches(body, works.ready, keys_of(spec), "kv_start", GROUPS)
        value = [("value", dim, "b, kv_head")]
        body.line("mbarrier.wait(value_free.index(0), nth_work & 1 ^ 1)")
        write_group_fetches(body, "value_ready.index(0)", value, "kv_start", GROUPS)
        with schedule.loop(body) as loop:
            _write_fetch(loop, spec, works, QUERIES.tile, schedule.after)
    of_schedule = (a.name for a in lowering.arguments.values())
    taken = (*names, *_SIZES, *tiles, *_BARRIERS, *of_schedule)
    title = "One warp: brings the keys and values of each work, and tiles of queries and of dO."
    return Partition("producer", title, ("BLOCK_M", "BLOCK_N", "STAGES"), taken, block)


def _of_rows(spec: KernelSpec) -> list[Tensor]:
    """The tensors whose tiles of rows come together."""
    return [*rows_of(spec), ("d_out", spec.head_dim, "b, h")]


def _write_fetch(block: Block, spec: KernelSpec, works: Works, tile: str, after: str) -> None:
    """Write what brings all of a tile of rows, once its place is free, with the tile's note."""
    works.write_take(block, after)
    block.line("stage = at % STAGES")
    block.line("mbarrier.wait(query_free.index(stage), at // STAGES & 1 ^ 1)")
    # Of a table with bits those tiles are masked ones.
    masked = "after" if spec.mask_bits else f"gl.where(cut & (after != {NOTHING}), {MASKED}, after)"
    write_leave_tile(block, tile, masked)
    ready, row = "query_ready.index(stage)", f"{tile} * BLOCK_M"
    write_tile_fetches(block, ready, _of_rows(spec), row, "BLOCK_M", "BLOCK_M * 8")
    for name in _NUMBERS:
        at, place = f"[first_row + {row}]", f"{name}_of_rows.index(stage)"
        block.line(f"tma.async_copy_global_to_shared({name}_rows, {at}, {ready}, {place})")
    block.line("at += 1")
