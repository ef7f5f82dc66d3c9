"""The consumer of the wide backward kernel that has dK: dS, and the right half of dQ.

It goes through all tiles alike. The protocol: `wide.py`.
"""

from __future__ import annotations

from ..kernel import KernelSpec, pieces
from ..writer import Block
from .backward_shared import (
    Result,
    numbered,
    write_layouts,
    write_sums,
    write_wait,
    write_wait_rows,
)
from .module import GROUP_ROWS, accumulator, matrix
from .wide_queries import (
    D_SCORES_PLACES,
    KEYS,
    query_tiles,
    write_add,
    write_start_query,
)
from .works import NOTHING, Works, write_count, write_read_tile


def write_consumer_of_keys(block: Block, spec: KernelSpec, works: Works) -> None:
    """Write the loop of the second consumer over works."""
    write_layouts(block)
    for layout, (_, width) in zip(_key_layouts(spec), pieces(spec.head_dim), strict=True):
        block.line(f"{layout}: {accumulator(width)}")
    write_sums(block, spec)
    block.line(f"zero = gl.zeros([{GROUP_ROWS}, BLOCK_M], gl.float32, SCORES)")
    with works.of_consumer(block) as body:
        _write_work_of_keys(body, spec)


def _key_layouts(spec: KernelSpec) -> list[str]:
    return numbered("OUT", len(pieces(spec.head_dim)))


def _write_work_of_keys(body: Block, spec: KernelSpec) -> None:
    tiles = numbered("d_key_tile", len(pieces(spec.head_dim)))
    body.line("first_sum = head_of_sums * q_tiles")
    cut, layouts = pieces(spec.head_dim), _key_layouts(spec)
    for name, layout, (_, width) in zip(tiles, layouts, cut, strict=True):
        body.line(f"{name} = gl.zeros([{GROUP_ROWS}, {width}], gl.float32, {layout})")
    body.line("mbarrier.wait(value_ready.index(0), nth_work & 1)")
    body.line("\n# The first tile.")
    _write_step_of_keys(body, spec, True)
    with body.indented(f"while after != {NOTHING}:") as tile:
        _write_step_of_keys(tile, spec, False)
    body.line("\n# What the last tile gives to dQ.")
    body.line("last = counted(at - 1)")
    write_wait(body, 0, tiles)
    body.line("mbarrier.arrive(query_free.index(last % STAGES), count=1)")
    write_start_query(body, spec, KEYS)
    write_wait(body, 0, query_tiles(spec, KEYS))
    write_add(body, spec, KEYS)
    factor = "scale" if spec.score is not None else "(scale * LN2)"
    for name in tiles:
        body.line(f"{name} *= {factor}")
    body.line("mbarrier.wait(keys_read.index(0), nth_work & 1)")
    ready, phase = "results_ready.index(1)", "nth_work & 1"
    passed = "d_key", spec.head_dim, "key", "0", ready, phase, "kv_start", layouts
    Result(*passed).write(body)
    body.line("mbarrier.arrive(key_free.index(0), count=1)")


def _write_step_of_keys(body: Block, spec: KernelSpec, first: bool) -> None:
    """Write the second consumer's work of one tile; in all but the first dQ of the tile before."""
    tiles = numbered("d_key_tile", len(pieces(spec.head_dim)))
    write_wait_rows(body)
    write_read_tile(body, "q_tile")
    body.line("nought = note >> 31")
    values = matrix("value", 0, "nought", GROUP_ROWS, spec.value_dim)
    d_out = matrix("d_out", 0, "stage", "BLOCK_M", spec.value_dim)
    product = (
        f"warpgroup_mma({values}, {d_out}.permute((1, 0)), zero, use_acc=False, is_async=True)"
    )
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
    body.line(f"d_scores_tiles.index(at % {D_SCORES_PLACES}).store(d_scores)")
    body.line("fence_async_shared()")
    body.line(f"mbarrier.arrive(d_scores_ready.index(at % {D_SCORES_PLACES}), count=1)")
    if not first:
        write_start_query(body, spec, KEYS)
    left = f"d_scores_tiles.index(at % {D_SCORES_PLACES})"
    for i, (tile, (_, width)) in enumerate(zip(tiles, pieces(spec.head_dim), strict=True)):
        queries = matrix("query", i, "stage", "BLOCK_M", width)
        body.line(f"{tile} = warpgroup_mma({left}, {queries}, {tile}, is_async=True)")
    if not first:
        write_wait(body, len(tiles), query_tiles(spec, KEYS))
        write_add(body, spec, KEYS)
    write_count(body)
    body.line("before = q_tile")
