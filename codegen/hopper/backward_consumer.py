"""What a consumer of the Hopper backward kernel does with a work: dK and dV of 64 keys.

Order of issue: S, dP, (weights), dV, (dS), dQ of the tile before, dK. dK is in flight over the end
of the loop, where nothing reads it; if anything else is, ptxas runs one product after the other.

The consumers take turns: the second one stores dS of a tile after the first one, which stores the
next tile's after that. So one has products while the other has exponentials; left alone, both may
fall into step (full, D 128, an H200 as below: 5353 microseconds, and 5014 in turns). It is also why
nobody says that dS has been read. A consumer reads the dS of a tile after it has stored that of the
next one, and before it stores another. So when the first consumer stores dS of tile i, the second
has stored i - 1, and read up to i - 3; when the second one does, the first has stored i, and read
up to i - 2. Three places are enough for dS of the first consumer, and two for the second one's.

Where captured numbers choose blocks, a consumer skips tiles that have no pair for its own keys: it
gives 0 as dS, and has its half of dQ alone. On an H200 (torch 2.11.0+cu130, triton 3.6.0,
2026-11-27), D 128, N 16384, 16 heads, the whole backward pass without that and with it,
microseconds: a fifth of all blocks of 64 for each head 4490 and 2864, causal 2524 and 1584, BigBird
1198 and 1149.

Keys and values never change their places. ptxas keeps the addresses of all their parts in registers
through the whole program and spills them, unless they are made of what it cannot know: `nought`,
which is 0. For both of them, and for the keys of dQ alone, on an H200 (torch 2.11.0+cu130, triton
3.6.0, 2026-11-26), D 128, microseconds: full 4935 and 4882, causal 2520 and 2525, grouped heads
2565 and 2582, softcap 2810 and 2923, a neighbourhood 1040 and 1086, packed documents 931 and 1001;
D 64, causal 2808 and 2852. For none it was full 6186 where the keys alone were 5034.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexdsl.ir import Expr

from ..kernel import KernelSpec
from ..loops import QUERIES
from ..lower import Lowering, Scope, Text
from ..writer import Block
from . import mask_bits
from .backward_shared import (
    Consumers,
    Result,
    barriers,
    write_keys,
    write_layout_of_bits,
    write_layouts,
    write_next_words,
    write_sums,
    write_wait_rows,
    write_weights,
)
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
from .row_loads import write_first_loads, write_next_loads
from .scores import keys_of, rows_of, write_start_scores
from .works import FULL, MASKED, NOTHING, Works, write_count, write_read_tile

GROUPS = 2
D_SCORES_PLACES = (3, 2)  # for dS of each consumer
_FIRST_KEY = f"kv_start + GROUP * {GROUP_ROWS}"


def _write_d_scores_tiles(body: Block, spec: KernelSpec) -> list[str]:
    """Write the allocation of the places of dS; its name."""
    body.comment("dS of 64 keys: the first consumer's last three tiles, the second one's last two.")
    return allocate_scores(body, "d_scores_tiles", spec.head_dim, sum(D_SCORES_PLACES))


def _partitions(
    spec: KernelSpec, works: Works, lowering: Lowering, given: Sequence[str]
) -> list[tuple[Partition, list[str]]]:
    """The function of both consumers."""
    block = Block(1)
    _write_consumer(block, spec, works, lowering)
    partition = Partition(
        "consumer",
        "One warpgroup: dK and dV of 64 keys of each work, and their part of dQ.",
        ("GROUP", *CONSTANTS),
        (*given, *names_of_mods(lowering)),
        block,
    )
    return [(partition, [partition.call(group) for group in range(GROUPS)])]


# Each has keys of its own.
OF_KEYS_EACH = Consumers(
    GROUPS,
    barriers(GROUPS, {"d_scores_ready": f"{sum(D_SCORES_PLACES)}, 1"}),
    _write_d_scores_tiles,
    _partitions,
)


def _write_consumer(block: Block, spec: KernelSpec, works: Works, lowering: Lowering) -> None:
    """Write the loop of a consumer over works."""
    write_layouts(block)
    block.line(f"OUT: {accumulator(spec.head_dim)}")
    block.line("LEFT: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)")
    write_sums(block, spec)
    write_layout_of_bits(block, spec)
    block.comment("Each consumer has its half of every tile's sums.")
    block.line("query_sums = left_sums if GROUP == 0 else right_sums")
    block.line(f"zero = gl.zeros([{GROUP_ROWS}, BLOCK_M], gl.float32, SCORES)")
    with works.of_consumer(block) as body:
        _write_work(body, spec, lowering)


def _write_work(body: Block, spec: KernelSpec, lowering: Lowering) -> None:
    dim = spec.head_dim
    scope = write_keys(body, spec, _FIRST_KEY)
    body.line("first_sum = head_of_sums * (left_tiles if GROUP == 0 else q_tiles)")
    body.line(f"d_value_tile = gl.zeros([{GROUP_ROWS}, {dim}], gl.float32, OUT)")
    body.line(f"d_key_tile = gl.zeros([{GROUP_ROWS}, {dim}], gl.float32, OUT)")
    if spec.mask_bits:
        mask_bits.write_place(body, QUERIES, GROUPS)
        mask_bits.write_words(body, "", lowering)
    body.line("\n# The first tile.")
    early = _write_step(body, spec, None, True, lowering, scope)
    body.line("before = q_tile")
    if spec.skips:
        with body.indented(f"while after != {NOTHING}:") as stretch:
            _write_loops(stretch, spec, early, lowering, scope, " & (own != 0)")
            with stretch.indented(f"while (own == 0) & (after != {NOTHING}):") as tile:
                _write_skipped(tile, spec, early, lowering, scope)
                tile.line("before = q_tile")
    else:
        _write_loops(body, spec, early, lowering, scope)
    body.line("\n# What the last tile gives to dQ.")
    body.line("d_key_tile = warpgroup_mma_wait(0, deps=[d_key_tile])")
    _write_free_rows(body)
    _write_wait_other(body, {0: "last", 1: "last"})
    _write_start_query(body, dim)
    body.line("d_query_tile = warpgroup_mma_wait(0, deps=[d_query_tile])")
    body.line("mbarrier.arrive(key_free.index(0), count=1)")
    body.line("add_query_sums(query_sums, first_sum + before, part_order, d_query_tile)")
    _write_results(body, spec)
    body.line("mbarrier.arrive(value_free.index(0), count=1)")


def _write_loops(
    body: Block,
    spec: KernelSpec,
    early: dict[Expr, Text],
    lowering: Lowering,
    scope: Scope,
    also: str = "",
) -> None:
    """Write the loops over masked tiles and over full ones.

    Args:
        also: source of what holds beside in the tiles of both.
    """
    for kind in (MASKED, FULL):
        is_one = f"(after == {kind}){also}" if also else f"after == {kind}"
        with body.indented(f"while {is_one}:") as tile:
            _write_step(tile, spec, early, kind == MASKED, lowering, scope)
            tile.line("before = q_tile")


def _write_skipped(
    body: Block, spec: KernelSpec, early: dict[Expr, Text], lowering: Lowering, outer: Scope
) -> None:
    """Write the work of a tile that has no pair for this consumer's keys: its dS is 0.

    The other consumer's dS is a part of both halves of dQ.
    """
    write_wait_rows(body)
    write_read_tile(body, "q_tile", spec.skips)
    body.line("nought = note >> 31")
    body.line("d_key_tile = warpgroup_mma_wait(0, deps=[d_key_tile])")
    body.line("d_key_tile = warpgroup_mma_init(d_key_tile)")
    _write_free_rows(body)
    _write_store_d_scores(body, f"zero.to(d_key_{spec.head_dim}.dtype)", first=False)
    write_next_loads(body, spec, loads_of("q", spec), early, lowering, outer)
    _write_start_query(body, spec.head_dim)
    body.line("d_query_tile = warpgroup_mma_wait(0, deps=[d_query_tile])")
    body.line("add_query_sums(query_sums, first_sum + before, part_order, d_query_tile)")
    write_count(body)


def _write_step(
    body: Block,
    spec: KernelSpec,
    early: dict[Expr, Text] | None,
    masked: bool,
    lowering: Lowering,
    outer: Scope,
) -> dict[Expr, Text]:
    """Write the work of one tile, and in all but the first dQ of the tile before.

    Args:
        early: source of what has been loaded for the tile's rows; None for a work's first tile.
        masked: the mask is to be looked at.

    Returns:
        The source of what is loaded for the rows of the next tile.
    """
    first, loads = early is None, loads_of("q", spec)
    write_wait_rows(body)
    of_scores = write_start_scores(body, keys_of(spec), rows_of(spec), "BLOCK_M")
    write_read_tile(body, "q_tile", spec.skips)
    body.line("nought = note >> 31")
    if early is None:
        early = write_first_loads(body, spec, loads, lowering, outer)
    if first:
        body.line("mbarrier.wait(value_ready.index(0), nth_work & 1)")
    else:
        body.line(f"d_key_tile = warpgroup_mma_wait({of_scores}, deps=[d_key_tile])")
        body.line("d_key_tile = warpgroup_mma_init(d_key_tile)")
        _write_free_rows(body)
    _write_start_weights(body, spec.head_dim)
    body.line("scores = warpgroup_mma_wait(1, deps=[scores])")
    write_weights(body, spec, masked, early, lowering, outer)
    _write_d_scores(body, spec.head_dim, first)
    write_next_loads(body, spec, loads, early, lowering, outer)
    if spec.mask_bits and masked:
        write_next_words(body, GROUPS, lowering)
    _write_gradients(body, spec.head_dim, first)
    write_count(body)
    return early


def _write_free_rows(body: Block) -> None:
    """Write that the rows of the tile before, `last`, are no longer read: its dK is done."""
    body.line("last = counted(at - 1)")
    body.line("mbarrier.arrive(query_free.index(last % STAGES), count=1)")


def _write_start_weights(body: Block, dim: int) -> None:
    """Write the start of dP."""
    values, d_out = matrix("value", 0, "nought + GROUP", GROUP_ROWS, dim), _d_out(dim)
    start = "zero, use_acc=False, is_async=True"
    body.line(f"d_weights = warpgroup_mma({values}, {d_out}.permute((1, 0)), {start})")


def _write_d_scores(body: Block, dim: int, first: bool) -> None:
    """Write the start of dV, and dS into shared memory at this consumer's turn."""
    body.line(f"left = gl.convert_layout(weights.to(d_key_{dim}.dtype), LEFT)")
    body.line(f"d_value_tile = warpgroup_mma(left, {_d_out(dim)}, d_value_tile, is_async=True)")
    body.line("d_weights = warpgroup_mma_wait(1, deps=[d_weights])")
    body.line("delta = delta_of_rows.index(stage).load(ROWS)")
    d_scores = f"(factor * (d_weights - delta[None, :])).to(d_key_{dim}.dtype)"
    _write_store_d_scores(body, d_scores, first)


def _write_store_d_scores(body: Block, d_scores: str, first: bool) -> None:
    """Write dS of a tile into shared memory at this consumer's turn; `d_scores` is its source."""
    body.line(f"d_scores = {d_scores}")
    # At a work's first tile the first consumer has waited already, when the work before ended.
    waits = {1: "at"} if first else {0: "last", 1: "at"}
    _write_wait_other(body, waits)
    body.line(f"d_scores_place = {_place(0, 'at')} if GROUP == 0 else {_place(1, 'at')}")
    body.line("d_scores_tiles.index(d_scores_place).store(d_scores)")
    body.line("fence_async_shared()")
    body.line("mbarrier.arrive(d_scores_ready.index(d_scores_place), count=1)")


def _place(group: int, at: str) -> str:
    """The source of the place of a consumer's dS of the tile of that number."""
    before = f"{D_SCORES_PLACES[0]} + " if group else ""
    return f"{before}{at} % {D_SCORES_PLACES[group]}"


def _write_wait_other(body: Block, tiles: Mapping[int, str]) -> None:
    """Write the waits of each consumer for the other one's dS of a tile, by that tile's number."""
    for group, at in tiles.items():
        with body.indented(f"if GROUP == {group}:") as block:
            phase = f"{at} // {D_SCORES_PLACES[1 - group]} & 1"
            block.line(f"mbarrier.wait(d_scores_ready.index({_place(1 - group, at)}), {phase})")


def _write_gradients(body: Block, dim: int, first: bool) -> None:
    """Write dQ of the tile before, of which a work's first tile has none, and the start of dK."""
    if not first:
        _write_start_query(body, dim)
    queries = matrix("query", 0, "stage", "BLOCK_M", dim)
    into = "warpgroup_mma_init(d_key_tile)" if first else "d_key_tile"
    left = "d_scores_tiles.index(d_scores_place)"
    body.line(f"d_key_tile = warpgroup_mma({left}, {queries}, {into}, is_async=True)")
    outstanding = 1 if first else 3
    waited = f"warpgroup_mma_wait({outstanding}, deps=[d_value_tile, left])"
    body.line(f"d_value_tile, left = {waited}")
    if not first:
        body.line("d_query_tile = warpgroup_mma_wait(1, deps=[d_query_tile])")
        body.line("add_query_sums(query_sums, first_sum + before, part_order, d_query_tile)")


def _d_out(dim: int) -> str:
    """The source of the tile of dO at hand."""
    return matrix("d_out", 0, "stage", "BLOCK_M", dim)


def _write_start_query(body: Block, dim: int) -> None:
    """Write the start of this consumer's part of dQ of the tile before, 64 by 64, from its dS.

    Of 64 rows by 128 columns each consumer has 64 columns, of 128 by 64 each has 64 rows.
    """
    body.line(f"d_query_tile = gl.zeros([{GROUP_ROWS}, 64], gl.float32, HALF)")
    for group in range(GROUPS):
        d_scores = f"d_scores_tiles.index({_place(group, 'last')})"
        keys = matrix("key", 0, f"nought + {group}", GROUP_ROWS, dim)
        if dim == 64:
            d_scores = f"{d_scores}.slice(GROUP * 64, 64, dim=1)"
        else:
            keys = f"{keys}.slice(GROUP * 64, 64, dim=1)"
        options = "is_async=True" if group else "use_acc=False, is_async=True"
        product = f"warpgroup_mma({d_scores}.permute((1, 0)), {keys}, d_query_tile, {options})"
        body.line(f"d_query_tile = {product}")


def _write_results(body: Block, spec: KernelSpec) -> None:
    """Write the stores. The values of this consumer are no longer read: they make place."""
    dim = spec.head_dim
    factor = "scale" if spec.score is not None else "(scale * LN2)"
    body.line(f"d_key_tile *= {factor}")
    for phase, tensor in enumerate(("d_value", "d_key")):
        ready = "results_ready.index(GROUP)"
        Result(tensor, dim, "value", "GROUP", ready, str(phase), _FIRST_KEY, ["OUT"]).write(body)
