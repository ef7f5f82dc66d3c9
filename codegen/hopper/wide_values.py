"""The consumer of the wide backward kernel that has dV: scores, weights, and the left half of dQ.

Alone of the two it looks at mask and score. The protocol: `wide.py`.
"""

from __future__ import annotations

from flexdsl.ir import Expr

from ..kernel import KernelSpec
from ..loops import QUERIES
from ..lower import Lowering, Scope, Text
from ..writer import Block
from . import mask_bits
from .backward_shared import (
    Result,
    write_keys,
    write_layout_of_bits,
    write_layouts,
    write_next_words,
    write_sums,
    write_wait,
    write_wait_rows,
    write_weights,
)
from .early_loads import loads_of
from .module import GROUP_ROWS, accumulator, matrix
from .row_loads import write_first_loads, write_next_loads
from .scores import keys_of, rows_of, write_start_scores
from .wide_queries import (
    VALUES,
    query_tiles,
    write_add,
    write_start_query,
    write_wait_d_scores,
)
from .works import FULL, MASKED, Works, write_count, write_read_tile


def write_consumer_of_values(
    block: Block, spec: KernelSpec, works: Works, lowering: Lowering
) -> None:
    """Write the loop of the first consumer over works."""
    write_layouts(block)
    block.line(f"OUT: {accumulator(spec.value_dim)}")
    block.line("LEFT: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)")
    write_sums(block, spec)
    write_layout_of_bits(block, spec)
    block.line(f"zero = gl.zeros([{GROUP_ROWS}, BLOCK_M], gl.float32, SCORES)")
    with works.of_consumer(block) as body:
        _write_work_of_values(body, spec, lowering)


def _write_work_of_values(body: Block, spec: KernelSpec, lowering: Lowering) -> None:
    scope = write_keys(body, spec, "kv_start")
    body.line("first_sum = head_of_sums * left_tiles")
    body.line(f"d_value_tile = gl.zeros([{GROUP_ROWS}, {spec.value_dim}], gl.float32, OUT)")
    if spec.mask_bits:
        mask_bits.write_place(body, QUERIES, 1)
        mask_bits.write_words(body, "", lowering)
    body.line("\n# The first tile.")
    early = _write_step_of_values(body, spec, None, True, lowering, scope)
    for kind in (MASKED, FULL):
        with body.indented(f"while after == {kind}:") as tile:
            _write_step_of_values(tile, spec, early, kind == MASKED, lowering, scope)
    body.line("\n# What the last tile gives to dQ.")
    body.line("last = counted(at - 1)")
    write_wait_d_scores(body)
    write_start_query(body, spec, VALUES)
    write_wait(body, 0, query_tiles(spec, VALUES))
    body.line("mbarrier.arrive(keys_read.index(0), count=1)")
    write_add(body, spec, VALUES)
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
    write_wait_rows(body)
    write_start_scores(body, keys_of(spec), rows_of(spec), "BLOCK_M", "0")
    write_read_tile(body, "q_tile")
    body.line("nought = note >> 31")
    if early is None:
        early = write_first_loads(body, spec, loads, lowering, outer)
    write_wait(body, 0, ["scores"])
    write_weights(body, spec, masked, early, lowering, outer)
    _write_factor(body, spec, first)
    write_next_loads(body, spec, loads, early, lowering, outer)
    if spec.mask_bits and masked:
        write_next_words(body, 1, lowering)
    _write_gradients(body, spec, first)
    write_count(body)
    body.line("before = q_tile")
    return early


def _write_factor(body: Block, spec: KernelSpec, first: bool) -> None:
    """Write the start of dV, and what the other consumer needs of the weights."""
    dtype = f"d_value_{spec.value_dim}.dtype"
    body.line(f"left = gl.convert_layout(weights.to({dtype}), LEFT)")
    d_out = matrix("d_out", 0, "stage", "BLOCK_M", spec.value_dim)
    body.line(f"d_value_tile = warpgroup_mma(left, {d_out}, d_value_tile, is_async=True)")
    if not first:  # at a work's first tile it has waited already, when the work before ended
        body.line("last = counted(at - 1)")
        write_wait_d_scores(body)
    body.line(f"factor_tiles.index(0).store(factor.to({dtype}))")
    body.line("mbarrier.arrive(factor_ready.index(0), count=1)")


def _write_gradients(body: Block, spec: KernelSpec, first: bool) -> None:
    """Write the end of dV, and all of dQ of the tile before, of which a first tile has none."""
    products = 0 if first else write_start_query(body, spec, VALUES)
    write_wait(body, products, ["d_value_tile", "left"])
    body.line("mbarrier.arrive(query_free.index(stage), count=1)")
    if not first:
        write_wait(body, 0, query_tiles(spec, VALUES))
        write_add(body, spec, VALUES)
