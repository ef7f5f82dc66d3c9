"""The forward kernel for Hopper, in Gluon: a producer warp and consumer warpgroups.

A program stays on its multiprocessor and takes one query tile after the other (`works.py`). The
producer brings tiles into shared memory by the copy engine. Each consumer has 64 query rows
(`forward_consumer.py`). Here are the arguments, what both sides share, and the producer. Which
calls this kernel covers is said in `cover.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..factors import FACTOR_TENSORS, dims_of_scores, score_products
from ..forward import write_query_program
from ..kernel import Argument, Kernel, KernelSpec, Role
from ..loops import KEYS
from ..lower import Lowering, Scope
from ..tiles import descriptors, names_of_kernel
from ..writer import Block
from . import mask_bits, row_bits, softmax, tangent, turns
from .forward_consumer import write_consumer
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
from .outputs import IN_PAIRS
from .registers import cuts_in_pairs, takes_early
from .schedule import write_schedule
from .scores import keys_of, rows_of, write_group_fetches, write_tile_fetches
from .works import FULL, LEADING, NAMES, NEXT_WORK, NOTES, Works, write_leave_tile

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
    leading = (LEADING,) if spec.skips else ()
    about = ("q_start", "b", "h", *bits, *leading)
    return Works("all_heads * q_tiles", about, "query", places, takes_early(spec))


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
    write_consumer(consumer, spec, works, masks, lowering)
    arguments = (*fixed, *lowering.arguments.values())
    of_group = Partition(
        "consumer",
        "One warpgroup: output and logsumexp of 64 rows of each work.",
        ("GROUP", "BLOCK_N", "STAGES"),
        _of_consumer(spec, tiles, lowering),
        consumer,
    )
    partitions = (producer, of_group)
    write_partitions(body, [of_group.call(g) for g in range(groups)], producer)
    functions = [BARRIERS, NOTES, *softmax.functions(spec), *helpers_of(lowering.helpers)]
    functions += [IN_PAIRS] if cuts_in_pairs(spec) else []
    functions += [mask_bits.SPREAD, mask_bits.KEEP] if spec.mask_bits else []
    functions += [*row_bits.functions(spec), *tangent.functions(spec)]
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
    write_barriers(body, counts | turns.barriers(spec))
    return [*tiles, *NAMES]


def _names_of_descriptors(dims: dict[str, int]) -> list[str]:
    return [a.name for a in descriptors(dims, _ROWS)]


def _of_consumer(spec: KernelSpec, tiles: list[str], lowering: Lowering) -> tuple[str, ...]:
    return (
        *_names_of_descriptors({"out": spec.value_dim}),
        *("lse", "scale", "q_len", "kv_len", "q_offset", "heads"),
        *(*tiles, *_BARRIERS, *turns.barriers(spec), *names_of_mods(lowering)),
    )


def _producer(
    spec: KernelSpec, works: Works, lowering: Lowering, tiles: list[str]
) -> tuple[Partition, bool]:
    """The producer, and whether a tile after a work's first one may be masked."""
    names = _names_of_descriptors({**dims_of_scores(spec), "value": spec.value_dim})
    block = Block(1)
    with works.of_producer(block) as body:
        write_query_program(body, spec, lowering)
        scope = Scope(body.block(), None, {n: n for n in ("b", "h", "q_first", "q_last")})
        schedule = write_schedule(KEYS, spec, GROUP_ROWS * spec.consumers, lowering, scope)
        if spec.mask_bits:
            mask_bits.write_first_tile(body, lowering)
        if spec.skips:
            body.comment("Where there is no tile at all one is taken, which is nobody's.")
            body.line(f"{LEADING} = gl.where(first_run < last_run, leading_kind, {FULL})")
        # Where it is the only one, the place of queries is free when the work before has ended.
        if works.places > 1:
            _write_query_fetch(body, spec, works)
        body.line(f"after = {schedule.after_first}")
        _write_key_fetch(body, spec, "first_tile")
        if works.places == 1:
            _write_query_fetch(body, spec, works)
        _write_value_fetch(body, spec, "first_tile")
        works.write_take(body)  # before the fetches it would take registers of theirs
        with schedule.loop(body) as loop:
            loop.line(f"after = {schedule.after}")
            works.write_take(loop)
            _write_key_fetch(loop, spec, KEYS.tile)
            _write_value_fetch(loop, spec, KEYS.tile)
    of_schedule = (a.name for a in lowering.arguments.values())
    taken = (*names, NEXT_WORK, *_SIZES, *tiles, *_BARRIERS, *of_schedule)
    title = "One warp: brings the query tile of each work, then its key and value tiles."
    partition = Partition("producer", title, ("BLOCK_M", "BLOCK_N", "STAGES"), taken, block)
    return partition, schedule.masks


def _write_query_fetch(block: Block, spec: KernelSpec, works: Works) -> None:
    """Write what brings the queries of a work, once their place is free, with the work's notes."""
    works.write_leave(block)
    first = f"{works.place} * {spec.consumers}" if works.places > 1 else ""
    write_group_fetches(block, works.ready, rows_of(spec), "q_start", spec.consumers, first)


def _write_key_fetch(block: Block, spec: KernelSpec, tile: str) -> None:
    """Write what brings the keys of a tile, once their place is free, with the tile's note.

    What comes after it is known.
    """
    block.line("stage = at % STAGES")
    block.line("phase = at // STAGES & 1 ^ 1")
    block.line("mbarrier.wait(key_free.index(stage), phase)")
    write_leave_tile(block, tile, "after", spec.skips)
    row = f"{tile} * BLOCK_N"
    write_tile_fetches(block, "key_ready.index(stage)", keys_of(spec), row, "BLOCK_N")


def _write_value_fetch(block: Block, spec: KernelSpec, tile: str) -> None:
    """Write what brings the values of that tile."""
    block.line("mbarrier.wait(value_free.index(stage), phase)")
    value = [("value", spec.value_dim, "b, kv_head")]
    row = f"{tile} * BLOCK_N"
    write_tile_fetches(block, "value_ready.index(stage)", value, row, "BLOCK_N")
    block.line("at += 1")
