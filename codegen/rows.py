"""The kernel that prepares the rows for the backward pass: delta, and the logsumexp in base 2.

    delta = rowsum(dO * O) - dlse        lse_log2 = lse * log2(e), +inf for a row without keys

A row whose logsumexp is +inf gets the weight exp2(s - inf) = 0 everywhere, so the backward kernels
need not look for empty rows. The rows of a head begin at multiples of 16 bytes, as the copy engine
has them in the Hopper kernels. Mask and score play no part here.
"""

from __future__ import annotations

from .kernel import Argument, Kernel, KernelSpec, Role, pieces
from .module import write_module
from .tiles import descriptors, load_piece
from .writer import Block

_ROWS = ("lse", "d_lse", "delta", "lse_log2")
_SIZES = ("q_len", "heads", "q_tiles", "row_stride")


def generate_backward_rows(spec: KernelSpec) -> Kernel:
    """The kernel of delta and lse_log2; only the value dimension of `spec` is looked at.

    Returns:
        A kernel whose entry is `backward_rows` and whose grid is `q_tiles * batch * heads`.
    """
    dim = spec.value_dim
    arguments = (
        *descriptors({"out": dim, "d_out": dim}),
        *(Argument(name, Role.ROWS, name) for name in _ROWS),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    body = Block(1)
    body.line("program = tl.program_id(0)")
    body.line("q_start = program % q_tiles * BLOCK_M")
    body.line("b = program // q_tiles // heads")
    body.line("h = program // q_tiles % heads")
    body.line("row = q_start + tl.arange(0, BLOCK_M)")
    body.line("head = (b * heads + h).to(tl.int64)")
    body.line("at = head * q_len + row")
    body.line("total = -tl.load(d_lse + at, mask=row < q_len, other=0.0)")
    body.line("lse_of_row = tl.load(lse + at, mask=row < q_len, other=0.0)")
    body.line('dead = lse_of_row == -float("inf")')
    body.comment("An empty row's lse is -inf whatever its inputs are.")
    body.line("total = tl.where(dead, 0.0, total)")
    for offset, width in pieces(dim):
        for tensor in ("out", "d_out"):
            load = load_piece(tensor, "b, h, q_start", "BLOCK_M", offset, width)
            body.line(f"{tensor}_tile = {load}.to(tl.float32)")
        body.line("total += tl.sum(out_tile * d_out_tile, 1)")
    body.line("to = head * row_stride + row")
    body.line("tl.store(delta + to, total, mask=row < row_stride)")
    body.line('lse_of_row = tl.where(dead, float("inf"), lse_of_row * LOG2E)')
    body.line("tl.store(lse_log2 + to, lse_of_row, mask=row < row_stride)")
    plain = KernelSpec(None, None, None, dim, dim)
    title = "Rows of the backward pass"
    text = write_module(title, "backward_rows", plain, arguments, set(), body)
    return Kernel(text, "backward_rows", arguments)
