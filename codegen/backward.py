"""The backward kernels, portable Triton: `backward_query` gives dQ, `backward_key` gives dK and dV.

Both compute the scores of a tile again and the weights from the forward's logsumexp, so that
nothing of the size of the matrix is kept. Every number has one program that adds it up in a fixed
order: results are the same in every run, and there are no atomics. With P the weights, S' the
modified and S the plain scores times the scale:

    dV = P^T dO        dP = dO V^T        dS = P * (dP - delta) * dS'/dS
    dK = scale * dS^T Q        dQ = scale * dS K        delta = rowsum(dO * O) - dlse

(FlashAttention, arXiv 2205.14135, appendix B.4.) `backward_key` works on transposed tiles, S^T =
K Q^T, so that no accumulator has to be transposed.

Both add up gradients of captured tensors in passing (`learned.py`). Beside another kernel of dQ, dK
and dV those are all that is left to do: `backward_learned_query` and `backward_learned_key` are the
same without the results, with two products a tile, S and dP.
"""

from __future__ import annotations

from flexdsl.analysis.derivative import derivatives
from flexdsl.analysis.finite import is_finite
from flexdsl.analysis.gradient import Reduction
from flexdsl.ir import Expr, const, var

from .factors import dims_of_scores, score_products
from .forward import write_queries, write_query_tile, write_scores
from .kernel import Argument, Kernel, KernelSpec, Role, pieces
from .learned import Sum, sums_of, write_additions, write_stores, write_zeros
from .loops import KEYS, QUERIES, Loop, write_loops
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

SHARED_SIZES = ("q_len", "kv_len", "q_offset", "heads", "group", "row_stride")
_ROWS = ("lse_log2", "delta")


def generate_backward_query(spec: KernelSpec) -> Kernel:
    """The kernel of dQ: one query tile a program, loops over key tiles.

    Returns:
        A kernel whose entry is `backward_query` and whose grid is `q_tiles * batch * heads`.
    """
    results = {"d_query": spec.head_dim}
    return _of_queries("Gradient of the queries", "backward_query", spec, results)


def generate_backward_learned_query(spec: KernelSpec) -> Kernel:
    """The kernel of what that of dQ adds up for captured tensors, by rows and by pairs, alone.

    Returns:
        A kernel whose entry is `backward_learned_query`; its grid is that of the kernel of dQ.
    """
    title = "Gradients of captured tensors by rows and by pairs"
    return _of_queries(title, "backward_learned_query", spec, {})


def generate_backward_key(spec: KernelSpec) -> Kernel:
    """The kernel of dK and dV: one key tile a program, loops over its query heads and query tiles.

    Args:
        spec: its closed form, where there is one, is of query positions for each key.

    Returns:
        A kernel whose entry is `backward_key` and whose grid is `kv_tiles * batch * kv_heads`.
    """
    results = {"d_key": spec.head_dim, "d_value": spec.value_dim}
    return _of_keys("Gradients of the keys and values", "backward_key", spec, results)


def generate_backward_learned_key(spec: KernelSpec) -> Kernel:
    """The kernel of what that of dK and dV adds up for captured tensors, by keys, alone.

    Returns:
        A kernel whose entry is `backward_learned_key`; its grid is that of the kernel of dK and dV.
    """
    return _of_keys("Gradients of captured tensors by keys", "backward_learned_key", spec, {})


def _of_queries(title: str, entry: str, spec: KernelSpec, results: dict[str, int]) -> Kernel:
    """A kernel of query tiles.

    Args:
        results: d_query with its columns, or nothing, where captured tensors are all there is.
    """
    dv = spec.value_dim
    tensors = {**dims_of_scores(spec), "value": dv, "d_out": dv, **results}
    sums = sums_of(spec, Reduction.QUERY, Reduction.PAIR)
    fixed = arguments_of(tensors, (*SHARED_SIZES, "all_heads", "q_tiles"))
    if any(item.is_of_row for item in sums):
        fixed += (Argument("d_lse", Role.ROWS, "d_lse"),)
    lowering = Lowering(names_of_kernel(fixed), spec.clamped, spec.wide)
    body = Block(1)
    write_query_tile(body, spec, lowering)
    scope = Scope(body.block(), None, {n: n for n in ("b", "h", "q", "q_first", "q_last")})
    write_queries(body, spec)
    load_tiles(body, "d_out", "b, h, q_start", "BLOCK_M", dv)
    write_row_pointers(body)
    load_rows(body, ":, None")
    _zeros(body, results, "BLOCK_M")
    write_zeros(body, sums, "BLOCK_M")
    for loop in write_loops(KEYS, spec, lowering, scope, body):
        _query_tile(loop, spec, results, sums, lowering, scope)
    body.line()
    for tensor, dim in results.items():
        _store(body, tensor, "b, h, q_start", "BLOCK_M", dim, _scale(spec))
    write_stores(body, sums, lowering, "head * q_len + row", "row < q_len")
    return _kernel(title, entry, spec, fixed, lowering, body)


def _of_keys(title: str, entry: str, spec: KernelSpec, results: dict[str, int]) -> Kernel:
    """A kernel of key tiles.

    Args:
        results: d_key and d_value with their columns, or nothing, as of query tiles.
    """
    d, dv = spec.head_dim, spec.value_dim
    tensors = {**dims_of_scores(spec), "value": dv, "d_out": dv, **results}
    fixed = arguments_of(tensors, (*SHARED_SIZES, "kv_heads", "all_kv_heads", "kv_tiles"))
    lowering = Lowering(names_of_kernel(fixed), spec.clamped, spec.wide)
    body = Block(1)
    _write_key_tile(body, spec, lowering)
    scope = Scope(body.block(), None, {n: n for n in ("b", "kv", "kv_first", "kv_last")})
    load_tiles(body, "key", "b, kv_head, kv_start", "BLOCK_N", d)
    load_tiles(body, "value", "b, kv_head, kv_start", "BLOCK_N", dv)
    _zeros(body, results, "BLOCK_N")
    if spec.grouped:
        body.line()
        with body.indented("for member in range(0, group):") as group:
            group.line("h = kv_head * group + member")
            _query_head(group, spec, results, lowering, scope)
    else:
        # Without the loop around it, the inner one keeps all its values in registers.
        body.line("h = kv_head")
        _query_head(body, spec, results, lowering, scope)
    body.line()
    for tensor, dim in results.items():
        factor = _scale(spec) if tensor == "d_key" else ""
        _store(body, tensor, "b, kv_head, kv_start", "BLOCK_N", dim, factor)
    return _kernel(title, entry, spec, fixed, lowering, body)


def _write_key_tile(body: Block, spec: KernelSpec, lowering: Lowering) -> None:
    """Write which key tile the program has, and the positions of its keys."""
    body.line("program = tl.program_id(0)")
    write_head(body, spec, "kv_tile", "tl", heads="kv_heads", count="all_kv_heads")
    body.line("kv_head = flat_head % kv_heads")
    # Of query heads that share a key head, the first one says which tiles are long.
    write_tile(body, spec, "kv_tile", lowering, "kv_head * group")
    body.line("kv_start = kv_tile * BLOCK_N")
    body.line("kv_first = kv_start")
    body.line("kv_last = tl.minimum(kv_start + BLOCK_N, kv_len) - 1")
    write_key_positions(body, spec, ":, None")


def _query_head(
    block: Block, spec: KernelSpec, results: dict[str, int], lowering: Lowering, outer: Scope
) -> None:
    """Write what one query head adds to the gradients of its key head."""
    _, *added = score_products(spec)
    for of in added:  # the heads of a group have numbers of their own
        load_tiles(block, of.keys, f"{of.key_plane}, kv_start", "BLOCK_N", of.dim)
    write_row_pointers(block)
    scope = Scope(block.block(), outer, {**outer.variables, "h": "h"})
    sums = sums_of(spec, Reduction.KEY)
    write_zeros(block, sums, "BLOCK_N")
    for loop in write_loops(QUERIES, spec, lowering, scope, block):
        _key_tile(loop, spec, results, sums, lowering, scope)
    if sums:
        block.line("first_key = (b * heads + h).to(tl.int64) * kv_len")
        block.line("key_of_sum = kv_start + tl.arange(0, BLOCK_N)")
        write_stores(block, sums, lowering, "first_key + key_of_sum", "key_of_sum < kv_len")


def arguments_of(tensors: dict[str, int], sizes: tuple[str, ...]) -> tuple[Argument, ...]:
    """The arguments of a backward kernel: descriptors, numbers of the rows, scale and sizes."""
    return (
        *descriptors(tensors),
        *(Argument(name, Role.ROWS, name) for name in _ROWS),
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in sizes),
    )


def _kernel(
    title: str,
    entry: str,
    spec: KernelSpec,
    fixed: tuple[Argument, ...],
    lowering: Lowering,
    body: Block,
) -> Kernel:
    arguments = (*fixed, *lowering.arguments.values())
    text = write_module(title, entry, spec, arguments, lowering.helpers, body)
    return Kernel(text, entry, arguments)


def _zeros(block: Block, results: dict[str, int], rows: str) -> None:
    for tensor, dim in results.items():
        for i, (_, width) in enumerate(pieces(dim)):
            block.line(f"{tensor}_tile_{i} = tl.zeros([{rows}, {width}], tl.float32)")


def _store(block: Block, tensor: str, at: str, rows: str, dim: int, factor: str) -> None:
    for i, (offset, width) in enumerate(pieces(dim)):
        value = f"({tensor}_tile_{i}{factor})"
        block.line(store_piece(tensor, at, rows, offset, width, value))


def _scale(spec: KernelSpec) -> str:
    """The factor from a gradient by the scores to one by the dot products; LN2 undoes log2(e)."""
    return " * scale" if spec.score is not None else " * (scale * LN2)"


def _load_row(block: Block, name: str, axis: str) -> None:
    """Write the load of one number a row, `lse_log2` or `delta`, along `axis` of a tile.

    A row past the end has an infinite logsumexp, hence no weight.
    """
    other = {"lse_log2": 'float("inf")', "delta": "0.0"}[name]
    load = f"tl.load({name}_rows + row, mask=row < q_len, other={other})"
    block.line(f"{name}_of_row = {load}[{axis}]")


def write_row_pointers(block: Block) -> None:
    """Write pointers to the head's first row; 64 bits are needed for the start of a head alone."""
    block.line("head = (b * heads + h).to(tl.int64)")
    for name in _ROWS:
        block.line(f"{name}_rows = {name} + head * row_stride")


def load_rows(block: Block, axis: str) -> None:
    """Write the loads of both numbers of the rows, along `axis` of a tile."""
    for name in _ROWS:
        _load_row(block, name, axis)


def write_d_weights(block: Block, spec: KernelSpec) -> None:
    """Write dP of a query tile and a key tile, whose values are loaded here."""
    for i, (offset, width) in enumerate(pieces(spec.value_dim)):
        load = load_piece("value", "b, kv_head, kv_start", "BLOCK_N", offset, width)
        block.line(f"value_tile = {load}")
        so_far = "" if i == 0 else "d_weights, "
        block.line(f"d_weights = tl.dot(d_out_tile_{i}, value_tile.T, {so_far}{IEEE})")


def _query_tile(
    loop: Loop,
    spec: KernelSpec,
    results: dict[str, int],
    sums: list[Sum],
    lowering: Lowering,
    outer: Scope,
) -> None:
    body = loop.body
    body.line("kv_start = kv_tile * BLOCK_N")
    write_scores(body, spec)
    if uses_positions(spec, loop.masked):
        write_key_positions(body, spec, "None, :")
    scope = tile_scope(body, outer, "kv")
    slope, *factors = write_pair_weights(loop, spec, sums, lowering, scope, "(key_index < kv_len)")
    write_d_weights(body, spec)
    _write_d_modified(body, factors, sums, lowering, scope)
    if results:
        _write_d_scores(body, slope)
        for i in range(len(pieces(spec.head_dim))):
            _accumulate(body, f"d_query_tile_{i}", "d_scores", f"key_tile_{i}")


def _key_tile(
    loop: Loop,
    spec: KernelSpec,
    results: dict[str, int],
    sums: list[Sum],
    lowering: Lowering,
    outer: Scope,
) -> None:
    body = loop.body
    body.line("q_start = q_tile * BLOCK_M")
    write_row_positions(body, spec, "None, :")
    products = score_products(spec)
    tensors = [(p.keys, p.rows, f"{p.row_plane}, q_start", p.dim) for p in products]
    write_products(body, tensors, "BLOCK_M")
    _load_row(body, "lse_log2", "None, :")
    scope = tile_scope(body, outer, "q")
    # Rows past the end have no weight, and keys past the end are not stored: no end to look at.
    slope, *factors = write_pair_weights(loop, spec, sums, lowering, scope, "")
    for i, (offset, width) in enumerate(pieces(spec.value_dim)):
        load = load_piece("d_out", "b, h, q_start", "BLOCK_M", offset, width)
        body.line(f"d_out_tile_{i} = {load}")
        if results:
            _accumulate(body, f"d_value_tile_{i}", "weights", f"d_out_tile_{i}")
        so_far = "" if i == 0 else "d_weights, "
        body.line(f"d_weights = tl.dot(value_tile_{i}, d_out_tile_{i}.T, {so_far}{IEEE})")
    _load_row(body, "delta", "None, :")  # as late as it can be: registers are short here
    _write_d_modified(body, factors, sums, lowering, scope)
    if results:
        _write_d_scores(body, slope)
        for i in range(len(pieces(spec.head_dim))):
            _accumulate(body, f"d_key_tile_{i}", "d_scores", f"query_tile_{i}")


def _accumulate(block: Block, into: str, left: str, right: str) -> None:
    """Write `into += left right`, the left operand cut to the dtype of the right one."""
    block.line(f"{into} = tl.dot({left}.to({right}.dtype), {right}, {into}, {IEEE})")


def write_pair_weights(
    loop: Loop, spec: KernelSpec, sums: list[Sum], lowering: Lowering, scope: Scope, inside: str
) -> list[str]:
    """Write the weights of a tile.

    Returns:
        Source of the derivative of the modified score by the score, then by each of `sums`.
    """
    block, factors, factor = scope.block, ["1.0"], "scale"
    slopes: list[Expr] = []
    if spec.score is not None:
        score = spec.score.expr
        block.line("score = scores * scale")
        slopes += [derivatives(score).get(var("score"), const(0.0))]
        slopes += [s.load.derivative for s in sums]
        (modified,) = lowering.lower([score], scope)
        factors = lowering.lower(slopes, scope, "slope")
        block.line(f"scores = {modified}")
        factor = "LOG2E"
    block.line(f"weights = tl.exp2(scores * {factor} - lse_log2_of_row)")
    if loop.masked and (spec.mask is not None or inside):
        allowed = write_allowed(spec, lowering, scope, inside)
        infinite = [i for i, slope in enumerate(slopes) if not is_finite(slope)]
        if infinite:
            allowed = lowering.assign("allowed", allowed, block)
        block.line(f"weights = tl.where({allowed}, weights, 0.0)")
        for i in infinite:  # times a weight of 0 they would be no numbers
            text = f"tl.where({allowed}, {factors[i]}, 0.0)"
            factors[i] = lowering.assign("slope", text, block)
    return factors


def _write_d_modified(
    block: Block, factors: list[str], sums: list[Sum], lowering: Lowering, scope: Scope
) -> None:
    """Write the gradient by the modified scores, and what the tile adds to learned captures."""
    block.line("d_modified = weights * (d_weights - delta_of_row)")
    # The scope's own lines stand before the weights; indices of additions come after them.
    here = Scope(block.block(), scope, scope.variables)
    write_additions(block, sums, factors, lowering, here)


def _write_d_scores(block: Block, slope: str) -> None:
    """Write the gradient by the plain scores."""
    block.line("d_scores = d_modified" if slope == "1.0" else f"d_scores = d_modified * {slope}")
