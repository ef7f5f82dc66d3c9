"""The forward pass by the generated kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexdsl.codegen import Phase
from flexdsl.runtime import bind
from flexdsl.runtime.blocks import aligned, empty_aligned
from flexdsl.runtime.call import Call, Kernels


def forward(
    kernels: Kernels, bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, Lq, Dv] and float32 logsumexp [B, Hq, Lq] of a checked and bound call.

    Args:
        kernels: what runs: compiled as the call needs them, or those of a bundle.

    Raises:
        BackendError: no configuration fits the GPU.
    """
    out = empty_aligned((*q.shape[:3], v.shape[3]), q)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    if out.numel() == 0 or k.shape[2] == 0:
        return out.zero_(), lse.fill_(-math.inf)
    if scale <= 0:  # the largest score times the scale must be the largest of all
        q, scale = (-q, -scale) if scale < 0 else (torch.zeros_like(q), 1.0)
    tensors = {"query": aligned(q), "key": aligned(k), "value": aligned(v), "out": out}
    kernels.run(Phase.FORWARD, Call(bound, scale, tensors, {"lse": lse}, hopper=kernels.hopper))
    return out.contiguous(), lse
