"""What kernels have in common that look at a mask alone: those of plans, and of masks as bits.

What each of them does with it is for its own file.
"""

from __future__ import annotations

from flexdsl.ir import Expr, Op, const, walk

from .kernel import Argument, Kernel, KernelSpec
from .lower import Lowering
from .module import write_module
from .tiles import names_of_kernel
from .writer import Block


def mask_of(spec: KernelSpec) -> Expr:
    """The mask as an expression; every pair is allowed where there is none."""
    return const(True) if spec.mask is None else spec.mask.expr


def lowering_of_mask(
    spec: KernelSpec, fixed: tuple[Argument, ...], names: tuple[str, ...]
) -> Lowering:
    """A lowering whose loads all stay inside of their tensors: any pair may be looked at.

    Args:
        fixed: arguments that the kernel has whatever the mask is.
        names: that only this kernel's lines use.
    """
    loads = frozenset(n for n in walk(mask_of(spec)) if n.op is Op.LOAD)
    return Lowering(names_of_kernel(fixed, names), loads, spec.wide)


def kernel_of_mask(
    title: str,
    entry: str,
    spec: KernelSpec,
    fixed: tuple[Argument, ...],
    lowering: Lowering,
    body: Block,
) -> Kernel:
    """The kernel of that title and entry, whose text is the same whatever else is in `spec`."""
    arguments = (*fixed, *lowering.arguments.values())
    alone = KernelSpec(spec.mask, None, None, 0, 0)
    text = write_module(title, entry, alone, arguments, lowering.helpers, body)
    return Kernel(text, entry, arguments)
