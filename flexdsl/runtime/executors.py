"""The executors behind the operator, by name: a forward and a backward pass each.

    forward(bound, scale, q, k, v) -> out, lse
    backward(bound, scale, (q, k, v), out, lse, d_out, d_lse) -> gradients of q, k, v and, in the
        order of `bound.learned`, of captured tensors; in any strides and float dtype

Neither knows of autograd. Triton is imported when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexdsl.runtime import cpu, cpu_backward
from flexdsl.runtime.bind import Bound
from flexdsl.runtime.problem import Problem

Inputs = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Executor:
    """Two functions with the signatures above."""

    forward: Callable[[Bound, float, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    backward: Callable[..., Sequence[Tensor]]


def _problem(bound: Bound, scale: float) -> Problem:
    assert bound.plan is not None
    values = bound.mask_values, bound.score_values
    offset = bound.lengths.q_offset
    return Problem(bound.mask, bound.score, *values, bound.plan, scale, offset, bound.learned)


def _cpu_forward(
    bound: Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    out, lse = cpu.forward(cpu.workspace(_problem(bound, scale), q, k, v))
    return out.reshape(*q.shape[:3], v.shape[3]), lse.reshape(q.shape[:3])


def _cpu_backward(
    bound: Bound,
    scale: float,
    inputs: Inputs,
    out: Tensor,
    lse: Tensor,
    d_out: Tensor | None,
    d_lse: Tensor | None,
) -> list[Tensor]:
    space = cpu.workspace(_problem(bound, scale), *inputs)
    with torch.no_grad():
        sums = cpu_backward.backward(space, out, lse, d_out, d_lse)
    return [sums.q, sums.k, sums.v, *sums.captures.values()]


def _triton_forward(
    bound: Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    from flexdsl.runtime.triton_forward import forward

    return forward(bound, scale, q, k, v)


def _triton_backward(
    bound: Bound,
    scale: float,
    inputs: Inputs,
    out: Tensor,
    lse: Tensor,
    d_out: Tensor | None,
    d_lse: Tensor | None,
) -> Sequence[Tensor]:
    from flexdsl.runtime.triton_backward import backward

    d_out = torch.zeros_like(out) if d_out is None else d_out
    return backward(bound, scale, inputs, out, lse, d_out, d_lse)


EXECUTORS = {
    "cpu": Executor(_cpu_forward, _cpu_backward),
    "triton": Executor(_triton_forward, _triton_backward),
}
