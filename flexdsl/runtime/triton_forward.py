"""The forward pass by the generated kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexdsl.codegen import generate_forward, heavy_last
from flexdsl.runtime import bind
from flexdsl.runtime.descriptors import aligned, empty_aligned
from flexdsl.runtime.launch import Call, capability, kernel_of, launch, run_first_that_fits
from flexdsl.runtime.tuning import Config, forward_configs


def forward(
    bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, Lq, Dv] and float32 logsumexp [B, Hq, Lq] of a checked and bound call.

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
    call = Call(bound, scale, tensors, {"lse": lse})

    def run(config: Config) -> None:
        plan = call.plan(config)
        last = plan.closed_form is not None and heavy_last(plan.closed_form)
        launch(kernel_of(generate_forward, call.spec(plan, last)), call, plan, config)

    widest = max(q.shape[3], v.shape[3])
    configs = forward_configs(capability(q.device), widest, q.element_size())
    run_first_that_fits("forward", call, configs, run)
    return out.contiguous(), lse
