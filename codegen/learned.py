"""Lines that add up gradients of captured tensors, in the kernels of dQ and of dK and dV.

Those are with dQ, dK and dV or, where another kernel gives them, without (`backward.py`).

Sums of a row are freed of the rounding of O. Where delta, made of O in 16 bits, is too large by e,
each pair's gradient by the modified score is too small by e P. Over a row the exact ones add up to
dlse, so e is dlse less their sum (`excess`), and e times the mean of a load's derivative under P is
added to its sum. Of a slope that is multiplied by distances that mean is large, and so the error:
of ALiBi's slopes, 128 tokens, float16, 0.19 of a gradient, or 0.001 under a causal mask, where 1e-6
are left.

Which load is added up how is decided in `analysis/gradient.py`; scattering sums of rows and of keys
to the elements is done by the runtime, which alone knows the whole index.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.analysis.gradient import LearnedLoad, Reduction, learned_loads
from flexdsl.ir import Capture

from .kernel import KernelSpec, Role
from .lower import Lowering, Scope
from .writer import Block


@dataclass(frozen=True, slots=True)
class Sum:
    """A learned load in a kernel.

    Attributes:
        number: its place among the learned loads of the score, by which the runtime finds it.
        load: what is learned.
    """

    number: int
    load: LearnedLoad

    @property
    def name(self) -> str:
        """The variable that sums over rows or keys."""
        return f"sum_{self.number}"

    @property
    def mean(self) -> str:
        """The variable that is the mean of the derivative under the weights of each row."""
        return f"mean_{self.number}"

    @property
    def is_of_row(self) -> bool:
        """Is it added up by rows?"""
        return self.load.reduction is Reduction.QUERY


def sums_of(spec: KernelSpec, *reductions: Reduction) -> list[Sum]:
    """The learned loads of a spec that are added up in one of these ways."""
    if spec.score is None or not spec.learned:
        return []
    loads = learned_loads(spec.score.expr, spec.learned)
    return [Sum(i, load) for i, load in enumerate(loads) if load.reduction in reductions]


def write_zeros(block: Block, sums: list[Sum], length: str) -> None:
    """Write the start of each sum, of `length` rows or keys or of the elements of a tile."""
    names = [item.name for item in sums if item.load.reduction is not Reduction.PAIR]
    of_rows = [item.mean for item in sums if item.is_of_row]
    for name in (*names, *of_rows, *(["excess"] if of_rows else [])):
        block.line(f"{name} = tl.zeros([{length}], tl.float32)")


def write_additions(
    block: Block, sums: list[Sum], factors: list[str], lowering: Lowering, scope: Scope
) -> None:
    """Write what a tile adds, from `d_modified`, the gradient by the modified scores.

    Args:
        factors: source of the derivative of the modified score by each load, as atoms.
    """
    if any(item.is_of_row for item in sums):
        block.line("excess += tl.sum(d_modified, 1)")
    for item, factor in zip(sums, factors, strict=True):
        times = "" if factor == "1.0" else f" * {factor}"
        product = f"d_modified{times}"
        if item.load.reduction is Reduction.PAIR:
            offset = _offset(item, lowering, scope)
            block.line(f'tl.atomic_add({offset}, {product}, mask=weights > 0.0, sem="relaxed")')
        elif item.load.reduction is Reduction.DIAGONAL:
            block.line(f"{item.name} += {product}")
        else:
            block.line(f"{item.name} += tl.sum({product}, 1)")
        if item.is_of_row:
            block.line(f"{item.mean} += tl.sum(weights{times}, 1)")


def write_stores(block: Block, sums: list[Sum], lowering: Lowering, at: str, inside: str) -> None:
    """Write the stores of the sums of rows or keys.

    Args:
        at: the source of their places, from the start of the buffer.
        inside: the source of the bool that is true inside the axis.
    """
    if any(item.is_of_row for item in sums):
        _write_d_lse(block, at)
    for item in sums:
        if item.load.reduction is not Reduction.PAIR:
            pointer = lowering.argument(Role.SUMS, str(item.number), 0, f"sums_{item.number}")
            more = f" + (d_lse_of_row - excess) * {item.mean}" if item.is_of_row else ""
            block.line(f"tl.store({pointer} + {at}, {item.name}{more}, mask={inside})")


def _write_d_lse(block: Block, at: str) -> None:
    """Write the loads of the gradients by the logsumexp of rows, 0 for a row without a key."""
    rows = 'tl.load(lse_log2_rows + row, mask=row < q_len, other=float("inf"))'
    block.line(f'has_keys = {rows} < float("inf")')
    block.line(f"d_lse_of_row = tl.load(d_lse + {at}, mask=has_keys, other=0.0)")


def _offset(item: Sum, lowering: Lowering, scope: Scope) -> str:
    """The pointers to the elements of the gradient that a tile's pairs loaded."""
    node = item.load.node
    assert isinstance(node.attribute, Capture)
    indices = lowering.lower(node.args, scope)
    roles = (Role.GRADIENT, Role.GRADIENT_STRIDE)
    pointer = lowering.pointer(node.attribute, indices, True, roles, "d_")
    # The zeros make one pointer for each pair, also where the index is the same for several.
    return f"{pointer} + tl.zeros([BLOCK_M, BLOCK_N], tl.int32)"
