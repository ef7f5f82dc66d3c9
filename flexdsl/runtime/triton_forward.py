"""The forward pass by the generated kernel, or of few queries by two (`splits.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flexdsl.codegen import Phase
from flexdsl.runtime import bind
from flexdsl.runtime.blocks import ALIGNMENT, aligned
from flexdsl.runtime.call import Call
from flexdsl.runtime.differences import with_tables
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
    run = _pass(kernels, bound, scale, {"query": q, "key": k, "value": v}, (out, lse)).run

    if shape[3] * dtype.itemsize % ALIGNMENT == 0 and all(aligned(x) is x for x in (q, k, v)):
        return run

    def copying(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        out, lse = run(aligned(q), aligned(k), aligned(v))
        return out.contiguous(), lse

    return copying


def steps_of(
    kernels: Kernels, bound: bind.Bound, scale: float, tensors: Mapping[str, Tensor]
) -> tuple[bind.Bound, tuple[Step, ...]]:
    """What the kernels of a forward pass are given of a call, and their launches.

    Args:
        tensors: query, key and value.
    """
    splits = kernels.splits(Call(bound, scale, tensors, {}, hopper=kernels.hopper))
    if splits is not None:
        # Products are no matrices where queries are few: these would be written to be read once.
        phases = (Phase.FORWARD_SPLIT, Phase.FORWARD_MERGE)
        return with_tables(bound), tuple(Step(phase, sizes=splits.sizes) for phase in phases)
    dtype = tensors["query"].dtype
    return prepared(bound, scale, dtype, kernels, backward=False), (Step(Phase.FORWARD),)


def _pass(
    kernels: Kernels,
    bound: bind.Bound,
    scale: float,
    tensors: Mapping[str, Tensor],
    made: tuple[Made, Made],
) -> Pass:
    """The forward pass of such calls; `made` are output and logsumexp."""
    q, v = tensors["query"], tensors["value"]
    bound, steps = steps_of(kernels, bound, scale, tensors)
    splits = steps[0].sizes.get("splits", 0)
    of_call = kernels, steps, bound, scale, q.device, _GIVEN, made
    if splits == 0:
        return Pass(*of_call, {COUNTER: (1,)} if kernels.hopper else {})
    rows = (splits, *q.shape[:3])
    shapes = {"split_out": (*rows, v.shape[3]), "split_lse": rows}
    return Pass(*of_call, between=[Made(("sums", n), shape) for n, shape in shapes.items()])
