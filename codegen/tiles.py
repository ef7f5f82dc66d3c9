"""Lines that every attention kernel has: tiles in pieces, positions, modified scores, the mask.

Where they stand and what becomes of them is for the file of each kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flexdsl.ir import Op, walk

from .comparisons import turn_comparisons
from .kernel import Argument, KernelSpec, Role, pieces
from .lower import Lowering, Scope
from .module import SIZES
from .writer import Block, Names

IEEE = 'input_precision="ieee"'  # float32 inputs are not cut to tf32

# Names that the kernels' own lines use, which no parameter or capture may take.
_RESERVED = frozenset(
    """triton tl range
    b h q kv score kv_head q_tile kv_tile program heads_before heads_here flat_head longest nth_tile
    q_start kv_start q_first q_last kv_first kv_last
    row key_index max_log2 total scores weights new_max shift rescale run
    run_start run_stop first_run full_end last_run row_of_runs swap dead scale BLOCK_M BLOCK_N
    LOG2E LN2 tanh sigmoid floor_div floor_mod tile_range forward backward_query backward_key
    backward_learned_query backward_learned_key
    sin cos held_sum held_difference
    head first_row d_weights d_scores lse lse_row logsumexp lse_log2 delta member
    lse_log2_of_row delta_of_row
    lse_log2_rows delta_rows d_modified first_key key_of_sum at out_tile value_tile
    excess d_lse_of_row has_keys
    diagonal diagonals first last backward_diagonal difference column live
    plan_states states rows columns of_head place q_low q_high kv_low kv_high state
    block_extremes box_extremes range_members both_sides complement zero one inside ROWS COLUMNS
    plan_refine LANES columns_of_tiles row_of_tiles tiles unknown some every in_tile key_in_tile
    row_index
    factors query_program key_program head_of_keys inverse_scale bfloat16_parts at_row at_key none
    plane
    """.split()  # noqa: SIM905
)
_NUMBERED = (
    *("query_tile", "key_tile", "value_tile", "out_tile", "sum", "mean"),
    *("query_factors_tile", "key_factors_tile"),
    *("d_out_tile", "d_query_tile", "d_key_tile", "d_value_tile"),
)


# Rows of the blocks of each tensor, in the portable kernels.
ROWS_OF_BLOCKS: Mapping[str, str] = {
    **dict.fromkeys(("query", "out", "d_out", "d_query", "query_factors"), "BLOCK_M"),
    **dict.fromkeys(("key", "value", "d_key", "d_value", "key_factors"), "BLOCK_N"),
}


def names_of_kernel(arguments: Iterable[Argument], others: Iterable[str] = ()) -> Names:
    """Names with everything taken that the kernel's own lines use.

    Args:
        others: names that only this kernel's lines use.
    """
    numbered = (f"{name}_{i}" for name in _NUMBERED for i in range(8))
    return Names({*_RESERVED, *SIZES, *numbered, *(a.name for a in arguments), *others})


def descriptors(
    tensors: dict[str, int], rows: Mapping[str, int | str] = ROWS_OF_BLOCKS
) -> list[Argument]:
    """The descriptors of tensors, given by name with their head dimension: one for each width.

    Args:
        rows: of a block of each tensor.
    """
    return [
        Argument(f"{tensor}_{width}", Role.DESCRIPTOR, tensor, width, rows[tensor])
        for tensor, dim in tensors.items()
        for width in dict.fromkeys(w for _, w in pieces(dim))
    ]


def load_piece(tensor: str, at: str, rows: str, offset: int, width: int) -> str:
    """The source that loads `rows` by `width` elements of a head."""
    return f"{tensor}_{width}.load([{at}, {offset}]).reshape([{rows}, {width}])"


def load_tiles(block: Block, tensor: str, at: str, rows: str, dim: int) -> None:
    """Write the loads of a tensor's tile, in pieces."""
    for i, (offset, width) in enumerate(pieces(dim)):
        block.line(f"{tensor}_tile_{i} = {load_piece(tensor, at, rows, offset, width)}")


def write_products(block: Block, tensors: Iterable[tuple[str, str, str, int]], rows: str) -> None:
    """Write `scores`, the sum of the products of tiles, each with one that is loaded here.

    Args:
        tensors: of each product the name of what is loaded already, the name of what is not and
            where that lies, and the elements of a row of both.
        rows: of the tiles that are loaded here.
    """
    so_far = ""
    for held, loaded, at, dim in tensors:
        for i, (offset, width) in enumerate(pieces(dim)):
            block.line(f"{loaded}_tile_{i} = {load_piece(loaded, at, rows, offset, width)}")
            product = f"{held}_tile_{i}, {loaded}_tile_{i}.T"
            block.line(f"scores = tl.dot({product}, {so_far}{IEEE})")
            so_far = "scores, "


def store_piece(tensor: str, at: str, rows: str, offset: int, width: int, value: str) -> str:
    """The source that stores `rows` by `width` elements of a head, in the tensor's dtype."""
    cast = f"{value}.to({tensor}_{width}.dtype).reshape([1, 1, {rows}, {width}])"
    return f"{tensor}_{width}.store([{at}, {offset}], {cast})"


def loads_at(variable: str, spec: KernelSpec) -> bool:
    """Is there a load whose index depends on `variable` and is not held inside its tensor?

    Tables of q - kv have a margin for what lies outside (`differences.py`).
    """
    expressions = [p.expr for p in (spec.mask, spec.score) if p is not None]
    if spec.closed_form is not None:  # of whose rows there may be ends
        expressions += [x for i in spec.closed_form.intervals for x in (i.lower, i.upper)]
    loads = (n for n in walk(*expressions) if n.op is Op.LOAD)
    safe = spec.clamped | {t.load for t in spec.tables}
    return any(variable in n.variables and n not in safe for n in loads)


def _is_clipped(variable: str, spec: KernelSpec) -> bool:
    """Do positions past the end stand for the last one?

    They have to where something is loaded at them, or bounds of tiles are those of their rows.
    Elsewhere they stay as they are: a clipped position costs registers.
    """
    form = spec.closed_form
    has_ends = form is not None and form.by_rows and form.inner != variable
    return has_ends or loads_at(variable, spec)


def write_row_positions(block: Block, spec: KernelSpec, axis: str) -> None:
    """Write `row` and `q`, the positions of the query tile's rows, along `axis` of a tile."""
    block.line("row = q_start + tl.arange(0, BLOCK_M)")
    if _is_clipped("q", spec):
        block.comment("Rows past the end stand for the last one.")
        block.line(f"q = (q_offset + tl.minimum(row, q_len - 1))[{axis}]")
    else:
        block.line(f"q = (q_offset + row)[{axis}]")


def write_key_positions(block: Block, spec: KernelSpec, axis: str) -> None:
    """Write `key_index` and `kv`, the positions of the key tile's keys, along `axis` of a tile."""
    block.line(f"key_index = (kv_start + tl.arange(0, BLOCK_N))[{axis}]")
    clipped = "tl.minimum(key_index, kv_len - 1)" if _is_clipped("kv", spec) else "key_index"
    block.line(f"kv = {clipped}")


def uses_positions(spec: KernelSpec, masked: bool) -> bool:
    """Are positions along the loop's axis looked at in its tiles?"""
    return masked or spec.score is not None


def tile_scope(block: Block, outer: Scope, inner: str) -> Scope:
    """The place in a tile's work where `inner` ("q" or "kv") and the score are known."""
    variables = {**outer.variables, inner: inner, "score": "score"}
    return Scope(block.block(), outer, variables)


def write_allowed(spec: KernelSpec, lowering: Lowering, scope: Scope, inside: str) -> str:
    """Write the mask of a masked tile; the source of the bool that is true where a pair counts.

    Args:
        inside: the source of the bool that is true inside the axis; "" where that does not matter.
    """
    if spec.mask is None:
        return inside
    assert scope.outer is not None
    (inner,) = {"q", "kv"} & (scope.variables.keys() - scope.outer.variables.keys())
    turned = turn_comparisons(spec.mask.expr, inner)
    lowering.held |= turned.held
    (allowed,) = lowering.lower([turned.expr], scope, "allowed")
    return f"{allowed} & {inside}" if inside else allowed
