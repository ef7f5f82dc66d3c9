"""The output of a consumer of the Hopper forward kernel: weights times values, and the stores.

A head dimension that is no power of two has its output in pieces. When the products start, and what
they are waited for with, is for `forward_consumer.py`.
"""

from __future__ import annotations

from ..kernel import KernelSpec, pieces
from ..writer import Block
from .module import GROUP_ROWS, matrix
from .registers import cuts_in_pairs
from .softmax import logsumexp

IN_PAIRS = '''\
@gluon.jit
def in_pairs(weights, dtype: gl.constexpr):
    """The weights in 16 bits, each two columns in a register, whose order is not the compiler's."""
    if dtype == gl.bfloat16:
        pair: gl.constexpr = "cvt.rn.bf16x2.f32 $0, $2, $1;"
        return gl.inline_asm_elementwise(pair, "=r,f,f", [weights], gl.bfloat16, True, 2)
    else:
        pair: gl.constexpr = "cvt.rn.f16x2.f32 $0, $2, $1;"
        return gl.inline_asm_elementwise(pair, "=r,f,f", [weights], gl.float16, True, 2)
'''


def write_zeros(body: Block, spec: KernelSpec) -> None:
    """Write the output tile before its first product."""
    for i, (_, width) in enumerate(pieces(spec.value_dim)):
        body.line(f"out_tile_{i} = gl.zeros([{GROUP_ROWS}, {width}], gl.float32, OUT_{i})")


def write_rescale(body: Block, spec: KernelSpec) -> None:
    """Write that the output follows the new maximum, where there is one."""
    if spec.bounded:
        return
    for i in range(len(pieces(spec.value_dim))):
        rescale = f"gl.convert_layout(rescale, gl.SliceLayout(1, OUT_{i}))[:, None]"
        body.line(f"out_tile_{i} = out_tile_{i} * {rescale}")


def write_operands(body: Block, spec: KernelSpec) -> None:
    """Write the weights as left operands, cut to the dtype of the values."""
    for i, (_, width) in enumerate(pieces(spec.value_dim)):
        dtype = f"out_{width}.dtype"
        found = f"in_pairs(weights, {dtype})" if cuts_in_pairs(spec) else f"weights.to({dtype})"
        body.line(f"weights_{i} = gl.convert_layout({found}, WEIGHTS_{i})")


def write_start_out(body: Block, spec: KernelSpec) -> None:
    """Write the start of the product of the weights of step `before` with their values."""
    write_wait_values(body)
    for i, (_, width) in enumerate(pieces(spec.value_dim)):
        values = matrix("value", i, "before % STAGES", "BLOCK_N", width)
        product = f"warpgroup_mma(weights_{i}, {values}, out_tile_{i}, is_async=True)"
        body.line(f"out_tile_{i} = {product}")


def write_wait_out(body: Block, spec: KernelSpec) -> None:
    """Write the wait for that product, which no longer needs the values."""
    count = len(pieces(spec.value_dim))
    names = ", ".join(f"{n}_{i}" for n in ("out_tile", "weights") for i in range(count))
    body.line(f"{names} = warpgroup_mma_wait(0, deps=[{names}])")
    write_free_values(body)


def write_wait_values(body: Block) -> None:
    """Write the wait for the values of step `before`."""
    body.line("mbarrier.wait(value_ready.index(before % STAGES), before // STAGES & 1)")


def write_free_values(body: Block) -> None:
    """Write the release of their place."""
    body.line("mbarrier.arrive(value_free.index(before % STAGES), count=1)")


def write_results(body: Block, spec: KernelSpec) -> None:
    """Write the stores; the query tile is no longer read, so its place takes the output."""
    body.line("\n# A row without an allowed key gives 0, and its logsumexp is -inf.")
    body.line("dead = total == 0.0")
    body.line("total = gl.where(dead, 1.0, total)")
    body.line(f'logsumexp = gl.where(dead, -float("inf"), {logsumexp(spec)})')
    body.line("lse_row = (b * heads + h).to(gl.int64) * q_len + row")
    body.line("gl.store(lse + lse_row, logsumexp, mask=row < q_len)")
    body.line("normalizer = 1.0 / total")
    for i, (_, width) in enumerate(pieces(spec.value_dim)):
        factor = f"gl.convert_layout(normalizer, gl.SliceLayout(1, OUT_{i}))[:, None]"
        place = matrix("query", i, "mine", GROUP_ROWS, width)
        body.line(f"{place}.store((out_tile_{i} * {factor}).to(out_{width}.dtype))")
    body.line("fence_async_shared()")
    for i, (offset, width) in enumerate(pieces(spec.value_dim)):
        at = f"[b, h, q_start + GROUP * {GROUP_ROWS}, {offset}]"
        body.line(
            f"tma.async_copy_shared_to_global(out_{width}, {at}, query_tiles_{i}.index(mine))"
        )
