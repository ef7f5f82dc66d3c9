"""Attention without torch's dispatcher, where nobody watches its operators.

The dispatcher lets modes, tracers, transforms and profilers see `flexdsl::attention`, and takes
longer than the launch of a kernel. Where none of these is at work the executor is called as the
operator would call it, on what was read already: no text, no numbers in a tensor. Whoever begins to
watch between the forward and the backward pass sees the backward pass as the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexdsl.ir import Program
from flexdsl.runtime import bind, operator
from flexdsl.runtime.operator import Pair, Saved
from flexdsl.runtime.operator_programs import numbers_of, text_of

_PLAIN = (Tensor, torch.nn.Parameter)


@dataclass(frozen=True, eq=False)
class Direct:
    """One call of attention, as `operator.Work`.

    Attributes:
        mask, score: their programs.
        tile: of the plan; zeros where the executor chooses.
        backend: a name in `executors.py`.
    """

    mask: Program | None
    score: Program | None
    scale: float
    q_offset: int
    tile: tuple[int, int]
    backend: str

    @property
    def mask_captures(self) -> int:
        """How many captured tensors, the first ones, are the mask's."""
        return len(bind.tensors_of(self.mask))

    @property
    def captures(self) -> list[Tensor]:
        """Captured tensors of the mask, then of the score."""
        return [*bind.tensors_of(self.mask), *bind.tensors_of(self.score)]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, captures: list[Tensor]) -> Pair:
        """Output and lse."""
        bound = self._bind(q, k, ())
        return operator.run_forward(bound, self.scale, self.backend, q, k, v)

    def backward(
        self, saved: Saved, d_out: Tensor | None, d_lse: Tensor | None, learned: list[int]
    ) -> Sequence[Tensor]:
        """Gradients of q, k, v and of the captures at the indices `learned`."""
        # With a graph of its own the backward pass is the operator, which has no derivative.
        if torch.is_grad_enabled() or is_watched(saved.q, saved.k, saved.v, *saved.captures):
            numbers, static = self.dispatched()
            return operator.differentiate(saved, d_out, d_lse, numbers, static, learned)
        bound = self._bind(saved.q, saved.k, learned)
        call = bound, self.scale, self.backend
        return operator.run_backward(*call, saved, d_out, d_lse, learned)

    def dispatched(self) -> tuple[Tensor, tuple[Any, ...]]:
        """The operator's arguments: `numbers`, and those after them."""
        numbers = numbers_of((self.mask, self.score))
        texts = text_of(self.mask), text_of(self.score)
        return numbers, (*texts, self.scale, self.q_offset, list(self.tile), self.backend)

    def _bind(self, q: Tensor, k: Tensor, learned: Sequence[int]) -> bind.Bound:
        lengths = bind.lengths_of(q, k, self.q_offset)
        names: tuple[str, ...] = ()
        if learned:
            known = [name for p in (self.mask, self.score) for name in bind.captured(p)]
            names = tuple(known[i] for i in learned)
        return bind.bind_again(self.mask, self.score, lengths, self.tile, names)


def attention(call: Direct, q: Tensor, k: Tensor, v: Tensor) -> Pair:
    """Output [B, Hq, Lq, Dv] and lse [B, Hq, Lq] of a call, by the operator if that is watched."""
    captures = call.captures
    if not is_watched(q, k, v, *captures):
        return operator.differentiable(call, q, k, v, captures)
    numbers, static = call.dispatched()
    out, lse = operator.attention(q, k, v, captures, numbers, *static)
    return out, lse


def is_watched(*tensors: Tensor) -> bool:
    """Does a mode, a transform, a tracer, a profiler or a kind of tensor see operators?"""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch.autograd.profiler._is_profiler_enabled
        or any(type(x) not in _PLAIN for x in tensors)
    )
