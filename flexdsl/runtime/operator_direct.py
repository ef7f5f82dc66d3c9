"""Attention without torch's dispatcher, where nobody watches its operators.

The dispatcher lets modes, tracers, transforms and profilers see `flexdsl::attention`, and takes
longer than the launch of a kernel. Where none of these is at work the executor is called as the
operator would call it, on what was read already: no text, no numbers in a tensor. Whoever begins to
watch between the forward and the backward pass sees the backward pass as the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flexdsl.ir import Program
from flexdsl.runtime import bind, operator
from flexdsl.runtime.executors import executor
from flexdsl.runtime.low_rank import tensors_of_squares
from flexdsl.runtime.memory import versions_of
from flexdsl.runtime.operator import Pair, Saved
from flexdsl.runtime.operator_programs import numbers_of, text_of

_PLAIN = frozenset((Tensor, torch.nn.Parameter))
# Whoever may watch, asked at each call.
_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_transforms = torch._C._are_functorch_transforms_active
_trace = torch._C._get_tracing_state
_profiler = torch.autograd.profiler


class Direct:
    """One kind of call of attention, as `operator.Work`: it may be run many times.

    Args:
        mask, score: their programs.
        scale: factor of the scores.
        lengths: of the calls.
        tile: of the plan; zeros where the executor chooses.
        backend: a name in `executors.py`.

    Attributes:
        captures: captured tensors of the mask, then of the score.
        mask_captures: how many of them, the first ones, are the mask's.
        is_plain: is each of them a tensor of torch's own kinds?
    """

    def __init__(
        self,
        mask: Program | None,
        score: Program | None,
        scale: float,
        lengths: bind.Lengths,
        tile: tuple[int, int],
        backend: str,
    ) -> None:
        self._mask, self._score, self._scale = mask, score, scale
        self._lengths, self._tile, self._backend = lengths, tile, backend
        self._executor = executor(backend)
        of_mask, of_score = (list(bind.captured(p).values()) for p in (mask, score))
        self.captures: list[Tensor] = [*of_mask, *of_score]
        self.mask_captures = len(of_mask)
        self.is_plain = all(type(x) in _PLAIN for x in self.captures)
        deciding = *of_mask, *bind.indices_of(score), *tensors_of_squares(mask, score)
        self._watched = deciding, of_score
        self._versions: list[Any] | None = None
        self._bounds: dict[tuple[int, ...], bind.Bound] = {}

    def is_current(self) -> bool:
        """Are captured tensors where they were, and the elements that a plan depends on as well?

        Never so where that cannot be told.
        """
        if not self.captures:
            return True
        return self._versions is not None and self._versions == versions_of(*self._watched)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor]) -> Pair:
        """Output and lse, of captures as they were when the call was made or found."""
        bound = self._bounds.get(()) or self._bind(())
        known = bound.passes.forward
        if known is None or torch._C._is_any_autocast_enabled():
            return operator.run_forward(self._executor, bound, self._scale, q, k, v)
        out, lse = known(q, k, v)
        return out, lse

    def backward(
        self, saved: Saved, d_out: Tensor | None, d_lse: Tensor | None, learned: tuple[int, ...]
    ) -> Sequence[Tensor]:
        """Gradients of q, k, v and of the captures at the indices `learned`."""
        # With a graph of its own the backward pass is the operator, which has no derivative.
        if torch.is_grad_enabled() or is_watched(*saved):
            numbers, static = self.dispatched()
            return operator.differentiate(saved, d_out, d_lse, numbers, static, learned)
        bound = self._bounds.get(learned) if self.is_current() else None
        call = bound or self._bind(learned), self._scale
        return operator.run_backward(self._executor, *call, saved, d_out, d_lse)

    def dispatched(self) -> tuple[Tensor, tuple[Any, ...]]:
        """The operator's arguments: `numbers`, and those after them."""
        numbers = numbers_of((self._mask, self._score))
        texts = text_of(self._mask), text_of(self._score)
        offset = self._lengths.q_offset
        return numbers, (*texts, self._scale, offset, list(self._tile), self._backend)

    def _bind(self, learned: tuple[int, ...]) -> bind.Bound:
        """What an executor is given; kept if captured tensors are as at the first time."""
        names = [name for p in (self._mask, self._score) for name in bind.captured(p)]
        wanted, now = tuple(names[i] for i in learned), versions_of(*self._watched)
        bound = bind.bind(self._mask, self._score, self._lengths, self._tile, wanted)
        if now is not None and self._versions in (None, now):
            self._versions, self._bounds[learned] = now, bound
        return bound


def attention(call: Direct, q: Tensor, k: Tensor, v: Tensor) -> Pair:
    """Output [B, Hq, Lq, Dv] and lse [B, Hq, Lq] of a call, by the operator if that is watched."""
    if call.is_plain and not is_watched(q, k, v):
        return operator.differentiable(call, q, k, v, call.captures)
    numbers, static = call.dispatched()
    out, lse = operator.attention(q, k, v, call.captures, numbers, *static)
    return out, lse


def is_watched(*tensors: Tensor) -> bool:
    """Does a mode, a transform, a tracer, a profiler or a kind of tensor see operators?"""
    for x in tensors:
        if type(x) not in _PLAIN:
            return True
    return (
        _modes() > 0
        or _function_modes() > 0
        or _transforms()
        or _trace() is not None
        or _profiler._is_profiler_enabled
    )
