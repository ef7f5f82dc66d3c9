"""The backward pass by generated kernels: gradients of q, k and v, from the output and from lse.

Each gradient is added up in a fixed order, so that two runs give the same bits. What is kept for it
is autograd's: see `operator.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexdsl.codegen import Phase
from flexdsl.runtime import bind
from flexdsl.runtime.descriptors import aligned, empty_aligned
from flexdsl.runtime.launch import Call, run


def backward(
    bound: bind.Bound,
    scale: float,
    inputs: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    lse: Tensor,
    d_out: Tensor,
    d_lse: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v.

    Args:
        inputs: q, k and v of the forward call.
        out, lse: what it gave.
        d_out: gradient by the output.
        d_lse: gradient by lse, or None.

    Raises:
        BackendError: no configuration fits the GPU.
    """
    q, k, v = inputs
    gradients = tuple(empty_aligned(x.shape, x) for x in inputs)
    if out.numel() == 0 or k.numel() == 0:
        return tuple(g.zero_().contiguous() for g in gradients)  # type: ignore[return-value]
    d_lse = torch.zeros_like(lse) if d_lse is None else d_lse.contiguous()
    rows = {"lse": lse, "d_lse": d_lse}
    rows |= {name: torch.empty_like(lse) for name in ("delta", "lse_log2")}
    names = ("query", "key", "value", "out", "d_out", "d_query", "d_key", "d_value")
    given = (*map(aligned, (q, k, v, out, d_out)), *gradients)
    call = Call(bound, scale, dict(zip(names, given, strict=True)), rows)
    run(Phase.BACKWARD_ROWS, call)
    run(Phase.BACKWARD_QUERY, call)
    run(Phase.BACKWARD_KEY, call)
    d_query, d_key, d_value = (g.contiguous() for g in gradients)
    return d_query, d_key, d_value
