"""Kernels for calls that are not known yet: to show, to build ahead of time, to compare in tests.

A call of `attention` has its own plan and its own checks of indices; here both are assumed for long
sequences, and every load is held inside its tensor.
"""

from __future__ import annotations

from flexdsl.analysis.typical import typical_closed_form
from flexdsl.ir import Op, Program, rename_apart, walk

from .kernel import KernelSpec, heavy_last


def forward_spec(
    mask: Program | None, score: Program | None, head_dim: int, value_dim: int
) -> KernelSpec:
    """What a forward kernel of this mask and score has in its text, whatever the lengths."""
    if score is not None and mask is not None:
        score = rename_apart(score, mask.values)
    closed_form = typical_closed_form(mask)
    expressions = [p.expr for p in (mask, score) if p is not None]
    return KernelSpec(
        None if mask is None or mask.expr.op is Op.CONST else mask,
        score,
        closed_form,
        head_dim,
        value_dim,
        clamped=frozenset(n for n in walk(*expressions) if n.op is Op.LOAD),
        heavy_last=closed_form is not None and heavy_last(closed_form),
    )
