"""The backward pass by generated kernels: gradients of q, k and v, and of captured tensors.

Gradients of q, k and v are added up in a fixed order, so that two runs give the same bits; so are
those of captured tensors wherever their index allows it (`analysis/gradient.py`). What is kept for
the backward pass is autograd's: see `operator.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexdsl.analysis.gradient import LearnedLoad, Reduction, learned_loads
from flexdsl.codegen import Phase
from flexdsl.runtime import bind
from flexdsl.runtime.descriptors import aligned, empty_aligned
from flexdsl.runtime.evaluate import evaluate
from flexdsl.runtime.launch import Call, run


def backward(
    bound: bind.Bound,
    scale: float,
    inputs: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    lse: Tensor,
    d_out: Tensor,
    d_lse: Tensor | None,
) -> list[Tensor]:
    """Gradients of q, k and v, then of the captured tensors that are learned.

    Args:
        inputs: q, k and v of the forward call.
        out, lse: what it gave.
        d_out: gradient by the output.
        d_lse: gradient by lse, or None.

    Raises:
        BackendError: no configuration fits the GPU.
    """
    q, k, v = inputs
    gradients = [empty_aligned(x.shape, x) for x in inputs]
    learned = {
        n: torch.zeros_like(bound.score_values[n], dtype=torch.float32) for n in bound.learned
    }
    if out.numel() == 0 or k.numel() == 0:
        return [*(g.zero_() for g in gradients), *learned.values()]
    d_lse = torch.zeros_like(lse) if d_lse is None else d_lse.contiguous()
    rows = {"lse": lse, "d_lse": d_lse}
    rows |= {name: torch.empty_like(lse) for name in ("delta", "lse_log2")}
    names = ("query", "key", "value", "out", "d_out", "d_query", "d_key", "d_value")
    given = (*map(aligned, (q, k, v, out, d_out)), *gradients)
    loads = () if bound.score is None else learned_loads(bound.score.expr, bound.learned)
    sums = {str(i): _buffer(load, bound, lse) for i, load in enumerate(loads)}
    call = Call(bound, scale, dict(zip(names, given, strict=True)), rows, sums, learned)
    run(Phase.BACKWARD_ROWS, call)
    run(Phase.BACKWARD_QUERY, call)
    run(Phase.BACKWARD_KEY, call)
    for number, load in enumerate(loads):
        if load.reduction is not Reduction.PAIR:
            _scatter(load, sums[str(number)], bound, learned[load.capture])
    return [*gradients, *learned.values()]


def _buffer(load: LearnedLoad, bound: bind.Bound, lse: Tensor) -> Tensor:
    """Where a kernel writes the sums of a load: a number for each row or key; none for a pair."""
    length = {
        Reduction.QUERY: bound.lengths.q_len,
        Reduction.KEY: bound.lengths.kv_len,
        Reduction.PAIR: 0,
    }[load.reduction]
    return lse.new_empty((*lse.shape[:2], length))


def _scatter(load: LearnedLoad, sums: Tensor, bound: bind.Bound, gradient: Tensor) -> None:
    """Add sums of rows or keys to the elements that those rows or keys loaded.

    `index_put_` with accumulate sorts by index on a GPU: its order is fixed too.
    """
    batch, heads, length = sums.shape
    axes = [torch.arange(n, device=sums.device) for n in (batch, heads, length)]
    b, h, position = torch.meshgrid(*axes, indexing="ij")
    if not load.node.variables & {"q", "kv"}:
        b, h, position, sums = b[..., 0], h[..., 0], position[..., 0], sums.sum(-1)
    variables = {"b": b, "h": h, "q": position + bound.lengths.q_offset, "kv": position}
    indices = [evaluate(i, variables, bound.score_values) for i in load.node.args]
    if not indices:
        gradient += sums.sum()
        return
    inside = [
        i.clamp(0, n - 1).expand(sums.shape) for i, n in zip(indices, gradient.shape, strict=True)
    ]
    gradient.index_put_(tuple(inside), sums, accumulate=True)
