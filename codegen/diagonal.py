"""The kernel of gradients of captured tensors whose index depends on kv - q: relative biases.

One program has the tiles of one diagonal of the tile grid. All of them have the same differences
kv - q at the same places, so what they add is summed element by element in a fixed order; at the
end the sum is folded along its own diagonals. The runtime scatters these sums.
"""

from __future__ import annotations

from flexdsl.analysis.gradient import Reduction

from .backward import (
    SHARED_SIZES,
    arguments_of,
    load_rows,
    write_d_weights,
    write_pair_weights,
    write_row_pointers,
)
from .forward import write_scores
from .kernel import Kernel, KernelSpec, Role
from .learned import Sum, sums_of, write_additions, write_zeros
from .loops import KEYS, Loop, write_is_live
from .lower import Lowering, Scope
from .module import write_module
from .tiles import (
    load_tiles,
    names_of_kernel,
    tile_scope,
    write_key_positions,
    write_row_positions,
)
from .writer import Block


def generate_backward_diagonal(spec: KernelSpec) -> Kernel:
    """The kernel of the diagonals' sums; BLOCK_M and BLOCK_N are equal.

    Returns:
        A kernel whose entry is `backward_diagonal` and whose grid is `diagonals * batch * heads`.
        It writes float32 [B, Hq, diagonals, 2 * BLOCK_N]: of diagonal t and place s, the sum over
        all pairs with kv - q == (t - q_tiles + 1) * BLOCK_N + s - BLOCK_N + 1, less q_offset.
    """
    d, dv = spec.head_dim, spec.value_dim
    sizes = (*SHARED_SIZES, "q_tiles", "kv_tiles", "diagonals")
    fixed = arguments_of({"query": d, "key": d, "value": dv, "d_out": dv}, sizes)
    lowering = Lowering(names_of_kernel(fixed), spec.clamped, spec.wide)
    sums = sums_of(spec, Reduction.DIAGONAL)
    body = Block(1)
    body.line("program = tl.program_id(0)")
    body.line("diagonal = program % diagonals - q_tiles + 1")
    body.line("b = program // diagonals // heads")
    body.line("h = program // diagonals % heads")
    body.line("kv_head = h // group")
    write_row_pointers(body)
    write_zeros(body, sums, "BLOCK_M, BLOCK_N")
    body.line("first = tl.maximum(0, -diagonal)")
    body.line("last = tl.minimum(q_tiles, kv_tiles - diagonal)")
    with body.indented("for q_tile in range(first, last):") as loop:
        _tile_of_diagonal(loop, spec, sums, lowering)
    _fold(body, sums, lowering)
    arguments = (*fixed, *lowering.arguments.values())
    title = "Gradients by diagonals"
    text = write_module(title, "backward_diagonal", spec, arguments, lowering.helpers, body)
    return Kernel(text, "backward_diagonal", arguments)


def _tile_of_diagonal(block: Block, spec: KernelSpec, sums: list[Sum], lowering: Lowering) -> None:
    """Write one step along the diagonal: its tile, where it is live."""
    block.line("kv_tile = q_tile + diagonal")
    block.line("q_start = q_tile * BLOCK_M")
    block.line("q_first = q_offset + q_start")
    block.line("q_last = q_offset + tl.minimum(q_start + BLOCK_M, q_len) - 1")
    write_row_positions(block, spec, ":, None")
    scope = Scope(block.block(), None, {n: n for n in ("b", "h", "q", "q_first", "q_last")})
    live = write_is_live(KEYS, spec, lowering, scope)
    if live is None:
        _tile(block, spec, sums, lowering, scope)
        return
    with block.indented(f"if {live}:") as body:
        _tile(body, spec, sums, lowering, scope)


def _tile(body: Block, spec: KernelSpec, sums: list[Sum], lowering: Lowering, outer: Scope) -> None:
    body.line("kv_start = kv_tile * BLOCK_N")
    load_tiles(body, "query", "b, h, q_start", "BLOCK_M", spec.head_dim)
    load_tiles(body, "d_out", "b, h, q_start", "BLOCK_M", spec.value_dim)
    write_scores(body, spec)
    write_key_positions(body, spec, "None, :")
    load_rows(body, ":, None")
    scope = tile_scope(body, outer, "kv")
    loop = Loop(body, masked=True)
    _, *factors = write_pair_weights(loop, spec, sums, lowering, scope, "(key_index < kv_len)")
    write_d_weights(body, spec)
    body.line("d_modified = weights * (d_weights - delta_of_row)")
    write_additions(body, sums, factors, lowering, scope)


def _fold(body: Block, sums: list[Sum], lowering: Lowering) -> None:
    """Write the sums of a tile along its own diagonals, and their stores."""
    body.line()
    body.comment(
        "Element (r, c) has the difference c - r: shift each row until they stand in line."
    )
    body.line("difference = tl.arange(0, 2 * BLOCK_N)[None, :] - (BLOCK_N - 1)")
    body.line("column = difference + tl.arange(0, BLOCK_M)[:, None]")
    body.line("live = (column >= 0) & (column < BLOCK_N)")
    body.line("column = tl.minimum(tl.maximum(column, 0), BLOCK_N - 1)")
    body.line("at = program.to(tl.int64) * (2 * BLOCK_N) + tl.arange(0, 2 * BLOCK_N)")
    for item in sums:
        pointer = lowering.argument(Role.SUMS, str(item.number), 0, f"sums_{item.number}")
        body.line(f"{item.name} = tl.where(live, tl.gather({item.name}, column, 1), 0.0)")
        body.line(f"tl.store({pointer} + at, tl.sum({item.name}, 0))")
