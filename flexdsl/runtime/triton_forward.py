"""The forward pass by the generated kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flexdsl.codegen import Phase
from flexdsl.runtime import bind
from flexdsl.runtime.blocks import ALIGNMENT, aligned
from flexdsl.runtime.passes import COUNTER, Kernels, Made, Pass, Step, prepared

Forward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
_GIVEN = tuple(("tensors", name) for name in ("query", "key", "value"))


def forward(
    kernels: Kernels, bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> Forward:
    """The forward pass of checked and bound calls whose tensors are laid out like q, k and v.

    It gives the output [B, Hq, Lq, Dv] and the float32 logsumexp [B, Hq, Lq], or raises
    `BackendError` where no configuration fits the GPU.

    Args:
        kernels: what runs: compiled as the call needs them, or those of a bundle.
    """
    shape, dtype = (*q.shape[:3], v.shape[3]), q.dtype
    if math.prod(shape) == 0 or k.shape[2] == 0:
        return lambda q, k, v: (
            q.new_zeros(shape),
            q.new_full(shape[:3], -math.inf, dtype=torch.float32),
        )
    if scale <= 0:  # the largest score times the scale must be the largest of all
        turn = torch.neg if scale < 0 else torch.zeros_like
        turned = forward(kernels, bound, -scale if scale < 0 else 1.0, turn(q), k, v)
        return lambda q, k, v: turned(turn(q), k, v)
    out = Made(("tensors", "out"), shape, dtype, padded=True)
    lse = Made(("rows", "lse"), shape[:3])
    bound = prepared(bound, scale, dtype, kernels, backward=False)
    counter = {COUNTER: (1,)} if kernels.hopper else {}
    steps = (Step(Phase.FORWARD),)
    run = Pass(kernels, steps, bound, scale, q.device, _GIVEN, (out, lse), counter).run

    if shape[3] * dtype.itemsize % ALIGNMENT == 0 and all(aligned(x) is x for x in (q, k, v)):
        return run

    def copying(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        out, lse = run(aligned(q), aligned(k), aligned(v))
        return out.contiguous(), lse

    return copying
