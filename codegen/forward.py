"""The forward kernel, portable Triton: one query tile a program, online softmax in base 2.

The text is complete and readable by itself: a person can paste it into a file and run it. Loads go
through tensor descriptors of rank 4, so that reads past the end of a head give zeros and writes are
clipped. What is not done here: choosing tiles and warps (the runtime's table), the backward pass.
"""

from __future__ import annotations

from .factors import dims_of_scores, score_products
from .kernel import Argument, Kernel, KernelSpec, Role, pieces
from .loops import KEYS, Loop, write_loops
from .lower import Lowering, Scope
from .module import write_module
from .programs import write_head, write_tile
from .tiles import (
    IEEE,
    descriptors,
    load_piece,
    load_tiles,
    names_of_kernel,
    store_piece,
    tile_scope,
    uses_positions,
    write_allowed,
    write_key_positions,
    write_products,
    write_row_positions,
)
from .writer import Block

_SIZES = ("q_len", "kv_len", "q_offset", "heads", "all_heads", "group", "q_tiles")


def generate_forward(spec: KernelSpec) -> Kernel:
    """The forward kernel of a mask and a score modification.

    Returns:
        A kernel whose entry is `forward` and whose grid is `q_tiles * batch * heads` programs.
    """
    dv = spec.value_dim
    fixed = (
        *descriptors({**dims_of_scores(spec), "value": dv, "out": dv}),
        Argument("lse", Role.ROWS, "lse"),
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    lowering = Lowering(names_of_kernel(fixed), spec.clamped, spec.wide)
    body = Block(1)
    write_query_tile(body, spec, lowering)
    scope = Scope(body.block(), None, {n: n for n in ("b", "h", "q", "q_first", "q_last")})
    write_queries(body, spec)
    write_softmax_start(body, spec)
    for loop in write_loops(KEYS, spec, lowering, scope, body):
        write_softmax_tile(loop, spec, lowering, scope)
    _epilogue(body, spec)
    arguments = (*fixed, *lowering.arguments.values())
    text = write_module("Attention forward", "forward", spec, arguments, lowering.helpers, body)
    return Kernel(text, "forward", arguments)


def write_query_tile(body: Block, spec: KernelSpec, lowering: Lowering) -> None:
    """Write which query tile the program has, and the positions of its rows."""
    body.line("program = tl.program_id(0)")
    write_query_program(body, spec, lowering)
    write_row_positions(body, spec, ":, None")


def write_query_program(body: Block, spec: KernelSpec, lowering: Lowering) -> None:
    """Write which query tile `program` has, and the positions of its first and last row."""
    write_head(body, spec, "q_tile", lowering.language, heads="heads", count="all_heads")
    body.line("h = flat_head % heads")
    write_tile(body, spec, "q_tile", lowering)
    body.line("kv_head = h // group")
    body.line("q_start = q_tile * BLOCK_M")
    body.line("q_first = q_offset + q_start")
    body.line(f"q_last = q_offset + {lowering.language}.minimum(q_start + BLOCK_M, q_len) - 1")


def write_scores(body: Block, spec: KernelSpec) -> None:
    """Write the scores of a query tile (loaded) and a key tile (loaded here), without the scale."""
    products = score_products(spec)
    tensors = [(p.rows, p.keys, f"{p.key_plane}, kv_start", p.dim) for p in products]
    write_products(body, tensors, "BLOCK_N")


def write_queries(body: Block, spec: KernelSpec) -> None:
    """Write the loads of the query tile that scores are computed from."""
    for of in score_products(spec):
        load_tiles(body, of.rows, f"{of.row_plane}, q_start", "BLOCK_M", of.dim)


def write_softmax_start(body: Block, spec: KernelSpec) -> None:
    """Write what the loops over key tiles begin with."""
    body.comment("Online softmax: largest score so far times log2(e), and sum of weights.")
    body.line('max_log2 = tl.full([BLOCK_M], -float("inf"), tl.float32)')
    body.line("total = tl.zeros([BLOCK_M], tl.float32)")
    for i, (_, width) in enumerate(pieces(spec.value_dim)):
        body.line(f"out_tile_{i} = tl.zeros([BLOCK_M, {width}], tl.float32)")


def write_softmax_tile(loop: Loop, spec: KernelSpec, lowering: Lowering, outer: Scope) -> None:
    """Write the work of one tile: scores, modification, mask, online softmax, weighted values."""
    body = loop.body
    body.line("kv_start = kv_tile * BLOCK_N")
    write_scores(body, spec)
    if uses_positions(spec, loop.masked):
        write_key_positions(body, spec, "None, :")
    scope = tile_scope(body, outer, "kv")
    if spec.score is not None:
        scope.block.line("score = scores * scale")
        (modified,) = lowering.lower([spec.score.expr], scope)
        scope.block.line(f"scores = {modified}")
    if loop.masked:
        allowed = write_allowed(spec, lowering, scope, "(key_index < kv_len)")
        scope.block.line(f'scores = tl.where({allowed}, scores, -float("inf"))')
    _softmax_step(body, spec, loop.masked)
    for i, (offset, width) in enumerate(pieces(spec.value_dim)):
        load = load_piece("value", "b, kv_head, kv_start", "BLOCK_N", offset, width)
        body.line(f"value_tile = {load}")
        weights = "weights.to(value_tile.dtype)"
        rescaled = f"out_tile_{i} * rescale[:, None]"
        body.line(f"out_tile_{i} = tl.dot({weights}, value_tile, {rescaled}, {IEEE})")
    body.line("max_log2 = new_max")


def _softmax_step(body: Block, spec: KernelSpec, masked: bool) -> None:
    """Rescale what there is to the new largest score and add this tile's weights.

    The factor log2(e) multiplies inside the exponent, where it is one fused multiply-add. Without
    a score modification it is a part of `scale`.
    """
    factor = "LOG2E" if spec.score is not None else "scale"
    body.line(f"new_max = tl.maximum(max_log2, tl.max(scores, 1) * {factor})")
    shift = "new_max"
    if masked or spec.score is not None:
        body.comment("A row without an allowed key so far has weight 0, not NaN.")
        body.line('shift = tl.where(new_max == -float("inf"), 0.0, new_max)')
        shift = "shift"
    body.line(f"weights = tl.exp2(scores * {factor} - {shift}[:, None])")
    body.line(f"rescale = tl.exp2(max_log2 - {shift})")
    body.line("total = total * rescale + tl.sum(weights, 1)")


def _epilogue(body: Block, spec: KernelSpec) -> None:
    body.line()
    body.comment("A row without an allowed key gives 0, and its logsumexp is -inf.")
    body.line("dead = total == 0.0")
    body.line("total = tl.where(dead, 1.0, total)")
    for i, (offset, width) in enumerate(pieces(spec.value_dim)):
        value = f"(out_tile_{i} / total[:, None])"
        body.line(store_piece("out", "b, h, q_start", "BLOCK_M", offset, width, value))
    body.line('logsumexp = tl.where(dead, -float("inf"), (max_log2 + tl.log2(total)) * LN2)')
    body.line("lse_row = (b * heads + h).to(tl.int64) * q_len + row")
    body.line("tl.store(lse + lse_row, logsumexp, mask=row < q_len)")
