"""Lines that add up gradients of captured tensors, in the kernels of dQ and of dK and dV.

Those are with dQ, dK and dV or, where another kernel gives them, without (`backward.py`).

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


def sums_of(spec: KernelSpec, *reductions: Reduction) -> list[Sum]:
    """The learned loads of a spec that are added up in one of these ways."""
    if spec.score is None or not spec.learned:
        return []
    loads = learned_loads(spec.score.expr, spec.learned)
    return [Sum(i, load) for i, load in enumerate(loads) if load.reduction in reductions]


def write_zeros(block: Block, sums: list[Sum], length: str) -> None:
    """Write the start of each sum, of `length` rows or keys or of the elements of a tile."""
    for item in sums:
        if item.load.reduction is not Reduction.PAIR:
            block.line(f"{item.name} = tl.zeros([{length}], tl.float32)")


def write_additions(
    block: Block, sums: list[Sum], factors: list[str], lowering: Lowering, scope: Scope
) -> None:
    """Write what a tile adds, from `d_modified`, the gradient by the modified scores.

    Args:
        factors: source of the derivative of the modified score by each load, as atoms.
    """
    for item, factor in zip(sums, factors, strict=True):
        product = "d_modified" if factor == "1.0" else f"d_modified * {factor}"
        if item.load.reduction is Reduction.PAIR:
            offset = _offset(item, lowering, scope)
            block.line(f'tl.atomic_add({offset}, {product}, mask=weights > 0.0, sem="relaxed")')
        elif item.load.reduction is Reduction.DIAGONAL:
            block.line(f"{item.name} += {product}")
        else:
            block.line(f"{item.name} += tl.sum({product}, 1)")


def write_stores(block: Block, sums: list[Sum], lowering: Lowering, at: str, inside: str) -> None:
    """Write the stores of the sums of rows or keys.

    Args:
        at: the source of their places, from the start of the buffer.
        inside: the source of the bool that is true inside the axis.
    """
    for item in sums:
        if item.load.reduction is not Reduction.PAIR:
            pointer = lowering.argument(Role.SUMS, str(item.number), 0, f"sums_{item.number}")
            block.line(f"tl.store({pointer} + {at}, {item.name}, mask={inside})")


def _offset(item: Sum, lowering: Lowering, scope: Scope) -> str:
    """The pointers to the elements of the gradient that a tile's pairs loaded."""
    node = item.load.node
    assert isinstance(node.attribute, Capture)
    indices = lowering.lower(node.args, scope)
    roles = (Role.GRADIENT, Role.GRADIENT_STRIDE)
    pointer = lowering.pointer(node.attribute, indices, True, roles, "d_")
    # The zeros make one pointer for each pair, also where the index is the same for several.
    return f"{pointer} + tl.zeros([BLOCK_M, BLOCK_N], tl.int32)"
