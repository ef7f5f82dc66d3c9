"""The softmax of a consumer of the Hopper forward kernel: what it keeps of each row of a work.

Of scores that are proven small (`analysis/bounded.py`) it needs no maximum: weights are the
exponentials of the scores, and the output is never rescaled. Which scores these are, and what
becomes of the weights, is for others. On an H200 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-27),
softcap under a causal mask, microseconds with a maximum and without: 1295 and 1239, at D 64 1124
and 1084, at D 256 2066 and 1777; where no turns are taken (`turns.py`) 1313, 1128 and 1773.
"""

from __future__ import annotations

from ..kernel import KernelSpec
from ..writer import Block
from .module import GROUP_ROWS
from .tangent import tangent_of

_ONLINE = '''\
@gluon.jit
def softmax(scores, max_log2, total, factor):
    """One step of the online softmax: weights, what to rescale by, new maximum, new total.

    A row without an allowed key so far has weight 0, not NaN.
    """
    new_max = gl.maximum(max_log2, gl.max(scores, 1) * factor)
    shift = gl.where(new_max == -float("inf"), 0.0, new_max)
    weights = gl.exp2(scores * factor - shift[:, None])
    rescale = gl.exp2(max_log2 - shift)
    return weights, rescale, new_max, total * rescale + gl.sum(weights, 1)
'''

_BOUNDED = '''\
@gluon.jit
def bounded_softmax(scores, total, factor, shift):
    """One step of a softmax of small scores, which needs no maximum: weights and new total."""
    weights = gl.exp2(scores * factor + shift)
    return weights, total + gl.sum(weights, 1)
'''


def functions(spec: KernelSpec) -> list[str]:
    """The text of the function of a step."""
    return [_BOUNDED if spec.bounded else _ONLINE]


def write_start(body: Block, spec: KernelSpec) -> None:
    """Write what is known of the rows before any tile."""
    if not spec.bounded:
        body.line(f'max_log2 = gl.full([{GROUP_ROWS}], -float("inf"), gl.float32, ROWS)')
    body.line(f"total = gl.zeros([{GROUP_ROWS}], gl.float32, ROWS)")


def write_step(body: Block, spec: KernelSpec, factor: str) -> None:
    """Write the weights of a tile, and what is known of the rows after it.

    Args:
        factor: source of what the scores are multiplied by for exponents of base 2.
    """
    if spec.bounded:
        shift = "tangent_cap * LOG2E" if tangent_of(spec) else "0.0"
        body.line(f"weights, total = bounded_softmax(scores, total, {factor}, {shift})")
    else:
        found = "weights, rescale, max_log2, total"
        body.line(f"{found} = softmax(scores, max_log2, total, {factor})")


def logsumexp(spec: KernelSpec) -> str:
    """The source of the logsumexp of the rows, which have an allowed key."""
    if spec.bounded:
        return "gl.log2(total) * LN2"
    return "(max_log2 + gl.log2(total)) * LN2" + (" + tangent_cap" if tangent_of(spec) else "")
