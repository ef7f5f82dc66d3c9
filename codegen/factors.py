"""Products of a row's and a key's number in the kernels: their matrices, and who writes those.

    F [b, h, rows, columns]  G [b, h, keys, columns]  of bfloat16    S = Q K^T + F G^T

Both have whole tiles of ROWS: what is past the end repeats the last row or key, so that no product
of a tile is infinity times the zero that a load past the end gives.

`factors` runs before the kernels of attention and writes them, portable Triton. Which
products there are, and which parts of their numbers make a column: `analysis/products.py`. A matrix
that does not depend on the head or on the batch has one for all. Where an attention kernel loads
tiles of them, and when, is for the file of that kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.analysis.products import PARTS, Product, depends_on, width_of
from flexdsl.ir import Expr

from .kernel import Argument, Kernel, KernelSpec, Role
from .lower import Lowering, Scope
from .module import write_module
from .tiles import names_of_kernel
from .writer import Block

ROWS = 128  # of a program; tiles of attention kernels have a part of it, or it
_SIZES = ("q_len", "kv_len", "q_offset", "heads", "q_tiles", "kv_tiles", "query_programs")


@dataclass(frozen=True, slots=True)
class _Side:
    """The rows, or the keys: how the kernel names what they have."""

    tensor: str
    program: str
    head: str
    index: str
    position: str
    at: str
    length: str
    tiles: str
    block: str


_ROWS = _Side(
    "query_factors", "query_program", "head", "row", "q", "at_row", "q_len", "q_tiles", "BLOCK_M"
)
_KEYS = _Side(
    *("key_factors", "key_program", "head_of_keys", "key_index", "kv"),
    *("at_key", "kv_len", "kv_tiles", "BLOCK_N"),
)


FACTOR_TENSORS = (_ROWS.tensor, _KEYS.tensor)


@dataclass(frozen=True, slots=True)
class ScoreProduct:
    """One of the matrix products that add up to the scores.

    Attributes:
        rows, keys: names of its two tensors.
        row_plane, key_plane: source of the batch and the head of each.
        dim: elements of a row and of a key.
    """

    rows: str
    keys: str
    row_plane: str
    key_plane: str
    dim: int

    @property
    def dims(self) -> dict[str, int]:
        """Elements of a row of each tensor."""
        return {self.rows: self.dim, self.keys: self.dim}


def score_products(spec: KernelSpec) -> tuple[ScoreProduct, ...]:
    """The matrix products of the scores: of queries and keys, and of what else is added."""
    plain = ScoreProduct("query", "key", "b, h", "b, kv_head", spec.head_dim)
    if not spec.products:
        return (plain,)
    of_batch, of_head = (depends_on(spec.products, n) for n in ("b", "h"))
    rows, keys = (
        f"{'b' if batch else '0'}, {'h' if head else '0'}"
        for batch, head in zip(of_batch, of_head, strict=True)
    )
    width = width_of(spec.products)
    return plain, ScoreProduct(*FACTOR_TENSORS, rows, keys, width)


def dims_of_scores(spec: KernelSpec) -> dict[str, int]:
    """Elements of a row of each tensor that the scores are computed from."""
    return {name: dim for p in score_products(spec) for name, dim in p.dims.items()}


def generate_factors(spec: KernelSpec) -> Kernel:
    """The kernel of both matrices; its programs have ROWS rows or keys each.

    Returns:
        A kernel whose entry is `factors`. Its first `query_programs` programs are q_tiles for each
        matrix of rows, the others kv_tiles for each matrix of keys.
    """
    width = width_of(spec.products)
    fixed = (
        *(Argument(s.tensor, Role.FACTORS, s.tensor, width) for s in (_ROWS, _KEYS)),
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    lowering = Lowering(names_of_kernel(fixed), spec.clamped, spec.wide)
    body = Block(1)
    body.line("program = tl.program_id(0)")
    # Without a score modification the scale has log2(e) in it (`Role.SCALE`).
    body.line(f"inverse_scale = {'LOG2E' if spec.score is None else '1.0'} / scale")
    with body.indented("if program < query_programs:") as rows:
        rows.line("query_program = program")
        _write_matrix(rows, spec, _ROWS, lowering)
    # What is computed on one side is not there on the other.
    other = Lowering(
        *(lowering.names, spec.clamped, spec.wide, lowering.arguments, lowering.helpers)
    )
    with body.indented("else:") as keys:
        keys.line("key_program = program - query_programs")
        _write_matrix(keys, spec, _KEYS, other)
    arguments = (*fixed, *lowering.arguments.values())
    helpers = {*lowering.helpers, "bfloat16_parts"}
    title = "Matrices whose product is added to the scores"
    text = write_module(title, "factors", spec, arguments, helpers, body)
    return Kernel(text, "factors", arguments)


def _write_matrix(block: Block, spec: KernelSpec, side: _Side, lowering: Lowering) -> None:
    """Write the numbers of one side, each in parts, into the columns of its matrix."""
    key = side is _KEYS
    of_batch, of_head = (depends_on(spec.products, n)[key] for n in ("b", "h"))
    variables = {side.position: side.position}
    block.line(f"{side.head} = {side.program} // {side.tiles}")
    if of_head:
        block.line(f"h = {side.head} % heads")
        variables["h"] = "h"
    if of_batch:
        block.line(f"b = {side.head} // heads" if of_head else f"b = {side.head}")
        variables["b"] = "b"
    block.line(f"{side.index} = tl.arange(0, {side.block})")
    line = f"{side.program}.to(tl.int64) * {side.block} + {side.index}"
    block.line(f"{side.at} = {side.tensor} + ({line}) * {width_of(spec.products)}")
    block.line(f"{side.index} += {side.program} % {side.tiles} * {side.block}")
    position = f"tl.minimum({side.index}, {side.length} - 1)"
    block.line(f"{side.position} = {position if key else f'q_offset + {position}'}")
    block.line(f"none = tl.zeros([{side.block}], tl.float32)")
    scope = Scope(block.block(), None, variables)
    column = 0
    for product in spec.products:
        parts = _write_parts(block, product, side, lowering, scope)
        for of_row, of_key in product.columns:
            mine, others = (of_key, of_row) if key else (of_row, of_key)
            part = parts[1 if mine == 0 and others else mine + (mine > 0)]
            block.line(f"tl.store({side.at} + {column}, {part})")
            column += 1
    for rest in range(column, width_of(spec.products)):
        block.line(f"tl.store({side.at} + {rest}, none)")


def _write_parts(
    block: Block, product: Product, side: _Side, lowering: Lowering, scope: Scope
) -> list[str]:
    """Write the parts of a product's number; their names, as `bfloat16_parts` gives them."""
    key = side is _KEYS
    number: Expr = product.key if key else product.row
    (text,) = lowering.lower([number], scope, "factor")
    here = scope.block
    names = [lowering.names.fresh("part") for _ in range(PARTS + 1)]
    divided = f"({text} + none) * inverse_scale" if product.divides_row ^ key else f"{text} + none"
    here.line(f"{', '.join(names)} = bfloat16_parts({divided})")
    return names
