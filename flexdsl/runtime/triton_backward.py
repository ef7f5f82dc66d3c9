"""The generated kernels under autograd: gradients of q, k and v, from the output and from lse.

What is kept between forward and backward is q, k, v, the output and lse. Each gradient is added up
in a fixed order, so that two runs give the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flexdsl.codegen import Phase
from flexdsl.runtime import bind
from flexdsl.runtime.descriptors import aligned, empty_aligned
from flexdsl.runtime.launch import Call, run
from flexdsl.runtime.once import once_differentiable
from flexdsl.runtime.triton_forward import forward


def attention(
    bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention by generated kernels, with gradients.

    Returns:
        Output [B, Hq, Lq, Dv] in q's dtype, and float32 lse [B, Hq, Lq].
    """
    out, lse = _Attention.apply(bound, scale, q, k, v)
    return out, lse


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        out, lse = forward(bound, scale, q, k, v)
        values = (*bound.mask_values.values(), *bound.score_values.values())
        # Captures are saved for autograd's check that nobody has changed them since.
        captures = [x for x in values if isinstance(x, Tensor)]
        ctx.save_for_backward(q, k, v, out, lse, *captures)
        ctx.bound, ctx.scale = bound, scale
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> tuple[Any, ...]:
        q, k, v, out, lse = ctx.saved_tensors[:5]
        with torch.no_grad():
            d_out = torch.zeros_like(out) if d_out is None else d_out
            gradients = backward(ctx.bound, ctx.scale, (q, k, v), out, lse, d_out, d_lse)
        return None, None, *once_differentiable(gradients, (q, k, v, d_out, d_lse))


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
