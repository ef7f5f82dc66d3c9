"""The consumers of the forward kernel for Hopper: scores, softmax and output of 64 rows each.

A consumer starts the product of the next scores, then that of the weights at hand with their
values, and computes the next softmax. The order of issue was found by experiment on an H200;
FlashAttention 3 (arXiv 2407.08608) describes it as an overlap within a warpgroup. In the machine
code there is little of that: ptxas waits for the second product before the exponentials, and it is
the other consumer's softmax that runs beside the products. Where the wait was kept behind the
exponentials, kernels took 0 to 4 % longer (an H200, torch 2.11.0+cu130, triton 3.6.0, 2026-11-26);
where the consumers took turns with their products besides, 0 to 4 %; and where a work's first
scores were started before the results of the one before were written, 0 to 5 %.

Masked and full tiles share a loop: with a loop each, ptxas packed and unpacked the weights carried
from one to the other in every tile. The first tile of a work is always masked, but where consumers
skip tiles: there the notes of the work say it. A mask is evaluated, read as bits (`mask_bits.py`),
or made of the ends of rows (`row_bits.py`).

Tiles that follow on each other in this way are a stretch. It ends where a work ends; in kernels
that skip tiles, before one that has no pair for the consumer's own rows, too. There is one text for
all stretches, and no product runs on from one to the next: a consumer that waits for later tiles
has given back the places of all earlier ones. What brings the tiles is `forward.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.ir import Expr

from ..kernel import KernelSpec, pieces
from ..loops import KEYS
from ..lower import Lowering, Scope, Text
from ..tiles import loads_at, tile_scope, write_allowed
from ..writer import Block
from . import mask_bits, row_bits, softmax, tangent, turns
from .early_loads import Loads
from .key_loads import loads_of_keys, write_first_loads, write_keys, write_more_loads
from .module import GROUP_ROWS, NO_SCORE, accumulator, matrix
from .outputs import (
    write_free_values,
    write_operands,
    write_rescale,
    write_results,
    write_start_out,
    write_wait_out,
    write_wait_values,
    write_zeros,
)
from .registers import held_queries
from .schedule import end_of_tiles
from .scores import keys_of, rows_of, write_start_scores
from .works import (
    LEADING,
    MASKED,
    NOTHING,
    Works,
    write_count,
    write_kind,
    write_read_tile,
)


@dataclass(frozen=True)
class _Tiles:
    """What the texts of a work's tiles have in common.

    Attributes:
        masks: a tile after a work's first one may be masked.
        scope: of what is known of the work.
    """

    spec: KernelSpec
    works: Works
    masks: bool
    loads: Loads
    lowering: Lowering
    scope: Scope


def write_consumer(
    block: Block, spec: KernelSpec, works: Works, masks: bool, lowering: Lowering
) -> None:
    """Write the body of the function that a consumer runs.

    Args:
        masks: a tile after a work's first one may be masked.
    """
    _write_layouts(block, spec)
    block.line(f"zero = gl.zeros([{GROUP_ROWS}, BLOCK_N], gl.float32, SCORES)")
    with works.of_consumer(block) as body:
        first = f"{works.place} * {spec.consumers} + " if works.places > 1 else ""
        body.line(f"mine = {first}GROUP")
        scope = _write_rows(body, spec, lowering)
        tiles = _Tiles(spec, works, masks, loads_of_keys(spec), lowering, scope)
        _write_work(body, tiles)
        if works.places == 1:
            body.line("tma.store_wait(0)")
            works.write_free(body, works.place)
    if works.places > 1:
        block.line("tma.store_wait(0)")


def _write_layouts(body: Block, spec: KernelSpec) -> None:
    """Write the layouts: of scores, of their rows and keys, and of outputs and their operands."""
    body.line(f"SCORES: {accumulator('BLOCK_N')}")
    body.line("ROWS: gl.constexpr = gl.SliceLayout(1, SCORES)")
    body.line("KEYS: gl.constexpr = gl.SliceLayout(0, SCORES)")
    for i, (_, width) in enumerate(pieces(spec.value_dim)):
        body.line(f"OUT_{i}: {accumulator(width)}")
        body.line(f"WEIGHTS_{i}: gl.constexpr = gl.DotOperandLayout(0, OUT_{i}, 2)")
    if held_queries(spec):
        body.line("QUERIES: gl.constexpr = gl.DotOperandLayout(0, SCORES, 2)")
    if spec.mask_bits:
        mask_bits.write_layout(body, KEYS)
    if row_bits.row_intervals(spec):
        row_bits.write_layout(body)


def _write_rows(body: Block, spec: KernelSpec, lowering: Lowering) -> Scope:
    """Write what is known of the rows of a work, and their softmax and output before any tile."""
    body.line(f"row = q_start + GROUP * {GROUP_ROWS} + gl.arange(0, {GROUP_ROWS}, ROWS)")
    clipped = "gl.minimum(row, q_len - 1)" if loads_at("q", spec) else "row"
    body.line(f"q = (q_offset + {clipped})[:, None]")
    known = {"b": "b", "h": "h", "q": "q", "q_first": "(q_offset + q_start)"}
    scope = Scope(body.block(), None, known)
    tangent.write_factors(spec, lowering, scope)
    softmax.write_start(body, spec)
    write_zeros(body, spec)
    return scope


def _write_work(body: Block, tiles: _Tiles) -> None:
    spec = tiles.spec
    if spec.mask_bits:
        mask_bits.write_place(body, KEYS, spec.consumers)
        mask_bits.write_words(body, "", tiles.lowering)
    for i, name in enumerate(held_queries(spec)):
        tile = matrix("query", i, "mine", GROUP_ROWS, pieces(spec.head_dim)[i][1])
        body.line(f"{name} = {tile}.load(QUERIES)")
    if spec.skips:
        _write_stretches(body, tiles)
    else:
        body.line("\n# The first tile: nothing to weigh with yet.")
        _write_stretch(body, tiles, f"after != {NOTHING}", "True", "nth_work")
    write_results(body, spec)


def _write_stretches(body: Block, tiles: _Tiles) -> None:
    """Write the loop over a work's stretches of tiles that are the consumer's own."""
    write_kind(body, LEADING, skips=True)
    if tiles.works.places > 1:
        body.line("unfreed = nth_work")
    _write_skips(body, tiles)
    with body.indented("while own != 0:") as stretch:
        stretch.line(f"masked = after == {MASKED}")
        stretch.comment("The first tile of a stretch: nothing to weigh with yet.")
        _write_stretch(stretch, tiles, "own != 0", "masked", "unfreed")
        _write_skips(stretch, tiles)
    if tiles.works.places > 1:
        _write_free_before(body, tiles.works, "unfreed")


def _write_stretch(body: Block, tiles: _Tiles, goes_on: str, masked: str, unfreed: str) -> None:
    """Write the work of a stretch of tiles.

    Args:
        goes_on: source of the bool that the next tile is one of it.
        masked: source of the bool that the mask of the first one is to be looked at.
        unfreed: name of a number, above 0 if the output of the work before may not be out yet.
    """
    spec, works = tiles.spec, tiles.works
    _write_start_scores(body, spec)
    if works.places > 1:
        free = _write_free_before(body, works, unfreed)
        if spec.skips:
            free.line(f"{unfreed} = 0")
    early = write_first_loads(body, spec, tiles.loads, tiles.lowering, tiles.scope)
    _write_wait_scores(body, 0)
    _write_weights(body, tiles, masked, early)
    if spec.skips:  # Earlier stretches have made a part of the output.
        write_rescale(body, spec)
    write_operands(body, spec)
    with body.indented(f"while {goes_on}:") as tile:
        _write_step(tile, tiles, early)
    body.line("\n# The last tile's values.")
    body.line("before = counted(at - 1)")
    write_start_out(body, spec)
    write_wait_out(body, spec)


def _write_free_before(body: Block, works: Works, unfreed: str) -> Block:
    """Write that the place of the work before is free when its output is stored."""
    body.comment("The place of the work before is free when its output is stored.")
    with body.indented(f"if {unfreed} > 0:") as before:
        before.line("tma.store_wait(0)")
        works.write_free(before, f"1 - {works.place}")
    return before


def _write_skips(body: Block, tiles: _Tiles) -> None:
    """Write the way past tiles that are not the consumer's: it gives back the places unread."""
    with body.indented(f"while (own == 0) & (after != {NOTHING}):") as tile:
        _write_wait_keys(tile)
        write_read_tile(tile, "kv_tile", skips=True)
        if tiles.spec.mask_bits:
            mask_bits.write_next_words(tile, KEYS, tiles.spec.consumers, tiles.lowering)
        tile.line("mbarrier.arrive(key_free.index(stage), count=1)")
        tile.comment("Before they come, an arrival would be of the tile that has the place now.")
        tile.line("before = counted(at - 1)")
        write_wait_values(tile)
        write_free_values(tile)


def _write_step(body: Block, tiles: _Tiles, early: dict[Expr, Text]) -> None:
    """Write the work of one tile: its scores and weights, and the values of the one before."""
    spec, masked = tiles.spec, "masked" if tiles.masks else ""
    if masked:
        body.line(f"masked = after == {MASKED}")
    _write_start_scores(body, spec)
    body.line("before = counted(at - 2)")
    write_start_out(body, spec)
    write_more_loads(body, spec, tiles.loads, masked, early, tiles.lowering, tiles.scope)
    _write_wait_scores(body, len(pieces(spec.value_dim)))
    _write_weights(body, tiles, masked, early)
    write_wait_out(body, spec)
    write_rescale(body, spec)
    write_operands(body, spec)


def _write_wait_keys(body: Block) -> None:
    """Write the wait for the keys of the tile at hand, which is counted."""
    body.line("stage = at % STAGES")
    body.line("mbarrier.wait(key_ready.index(stage), at // STAGES & 1)")
    write_count(body)


def _write_start_scores(body: Block, spec: KernelSpec) -> None:
    _write_wait_keys(body)
    write_start_scores(body, rows_of(spec), keys_of(spec), "BLOCK_N", "mine", held_queries(spec))
    write_read_tile(body, "kv_tile", spec.skips)


def _write_wait_scores(body: Block, outstanding: int) -> None:
    body.line(f"scores = warpgroup_mma_wait({outstanding}, deps=[scores])")
    body.line("mbarrier.arrive(key_free.index(stage), count=1)")


def _write_weights(body: Block, tiles: _Tiles, masked: str, early: dict[Expr, Text]) -> None:
    """Write the modified scores, the mask, and one step of the softmax.

    Args:
        masked: source of the bool that the mask is to be looked at; "" where it never is.
        early: source of what has been loaded for the tile's keys.
    """
    spec, lowering = tiles.spec, tiles.lowering
    turns.write_wait(body, spec)
    scope = tile_scope(body, tiles.scope, "kv")
    scope.known.update(early)
    factor = "scale"
    if spec.score is not None:
        factor = _write_modified(scope, spec, lowering)
    if masked == "True":
        _write_mask(scope.block, tiles, early)
    elif masked:
        with scope.block.indented(f"if {masked}:") as block:
            _write_mask(block, tiles, early)
    if spec.mask_bits:
        mask_bits.write_next_words(body, KEYS, spec.consumers, lowering)
    softmax.write_step(body, spec, factor)
    turns.write_pass(body, spec)


def _write_modified(scope: Scope, spec: KernelSpec, lowering: Lowering) -> str:
    """Write the modified scores, and give the factor of their weights' exponents."""
    assert spec.score is not None
    write_keys(scope.block, spec)
    scope.block.line("score = scores * scale")
    scope.unscaled = ("scores", "scale")
    factor = tangent.write_score(spec, lowering, scope)
    if factor is not None:
        return factor
    (modified,) = lowering.lower([spec.score.expr], scope)
    scope.block.line(f"scores = {modified}")
    return "LOG2E"


def _write_mask(block: Block, tiles: _Tiles, early: dict[Expr, Text]) -> None:
    """Write the end of the keys and the mask.

    It has a scope of its own: what the score computed may stand in registers that are needed here.
    """
    spec = tiles.spec
    if spec.mask_bits:
        block.line(f"scores = {mask_bits.kept(KEYS)}")
        return
    scope = tile_scope(block, tiles.scope, "kv")
    if row_bits.row_intervals(spec):
        row_bits.write_words(spec, KEYS, tiles.lowering, scope)
        scope.block.line(f"scores = {row_bits.kept('scores', NO_SCORE, KEYS)}")
        return
    if spec.score is None:
        write_keys(scope.block, spec)
    scope.known.update(early)
    # An `if` for the end alone was tried: it made spills where there had been none.
    end = f"(key_index < {end_of_tiles(spec, 'kv_len')})"
    allowed = write_allowed(spec, tiles.lowering, scope, end)
    scope.block.line(f"scores = gl.where({allowed}, scores, {NO_SCORE})")
