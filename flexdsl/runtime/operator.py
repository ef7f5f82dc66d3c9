"""The operators that torch knows: `flexdsl::attention` and `flexdsl::attention_backward`.

They make attention one node of a graph, with shapes known without running it (`register_fake`) and
a gradient, on every executor. All that a call depends on is an argument:

    captures  captured tensors of the mask, then of the score, each in order of first use
    numbers   int64 on the CPU: values of parameters, likewise (`operator_programs.py`)
    mask      text of the mask without values, "" for none; score likewise
    tile      of the plan; zeros where the executor chooses
    backend   a name in `executors.py`

Which mods, and where their values come from: `attention.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from flexdsl.errors import BackendError
from flexdsl.runtime import bind, validate
from flexdsl.runtime.executors import Executor, executor
from flexdsl.runtime.operator_programs import capture_count, program_of, with_values

_Function = Callable[..., Any]
Pair = tuple[Tensor, Tensor]


# What autograd keeps from the forward to the backward pass: q, k, v, out, lse, and the captures.
Saved = tuple[Tensor, ...]
_BEFORE_CAPTURES = 5

_TENSORS = "Tensor q, Tensor k, Tensor v"
_CALL = (
    "Tensor[] captures, Tensor numbers, str mask, str score,"
    " float scale, SymInt q_offset, int[] tile, str backend"
)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Sequence[Tensor] | None,
    numbers: Tensor,
    mask: str,
    score: str,
    scale: float,
    q_offset: int,
    tile: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, Lq, Dv] in q's dtype, and lse [B, Hq, Lq] in float32 (float64 of float64)."""
    # A model that AOTInductor packaged passes None for an empty list.
    bound = _bind(q, k, captures or (), numbers, mask, score, q_offset, tile)
    return run_forward(executor(backend), bound, scale, q, k, v)


def _attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    d_out: Tensor | None,
    d_lse: Tensor | None,
    captures: Sequence[Tensor],
    numbers: Tensor,
    mask: str,
    score: str,
    scale: float,
    q_offset: int,
    tile: Sequence[int],
    backend: str,
    learned: Sequence[int],
) -> list[Tensor]:
    """Gradients of q, k, v and of the captures at the indices `learned`, contiguous."""
    bound = _bind(q, k, captures, numbers, mask, score, q_offset, tile, learned)
    saved = q, k, v, out, lse
    return list(run_backward(executor(backend), bound, scale, saved, d_out, d_lse))


def run_forward(
    by: Executor, bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> Pair:
    """Output and lse by an executor."""
    if not torch._C._is_any_autocast_enabled():
        return by.forward(bound, scale, q, k, v)
    with _no_autocast(q):
        return by.forward(bound, scale, q, k, v)


def run_backward(
    by: Executor,
    bound: bind.Bound,
    scale: float,
    saved: Saved,
    d_out: Tensor | None,
    d_lse: Tensor | None,
) -> Sequence[Tensor]:
    """Gradients by an executor."""
    given = saved[:3], saved[3], saved[4], d_out, d_lse
    if not torch._C._is_any_autocast_enabled():
        return by.backward(bound, scale, *given)
    with _no_autocast(saved[0]):
        return by.backward(bound, scale, *given)


def _no_autocast(q: Tensor) -> AbstractContextManager[Any]:
    """What an executor computes with is its own choice."""
    device = q.device.type
    return torch.autocast(device, enabled=False) if _is_autocast(device) else nullcontext()


def _is_autocast(device: str) -> bool:
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def _bind(
    q: Tensor,
    k: Tensor,
    captures: Sequence[Tensor],
    numbers: Tensor,
    mask: str,
    score: str,
    q_offset: int,
    tile: Sequence[int],
    learned: Sequence[int] = (),
) -> bind.Bound:
    parts = with_values(program_of(mask), program_of(score), captures, numbers)
    lengths = bind.lengths_of(q, k, q_offset)
    names = [name for part in parts for name in bind.captured(part)]
    rows, columns = tile
    return bind.bind(*parts, lengths, (rows, columns), tuple(names[i] for i in learned))


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    validate.check_tensors(q, k, v)
    lse_dtype = torch.promote_types(q.dtype, torch.float32)
    return (
        q.new_empty((*q.shape[:3], v.shape[3])),
        q.new_empty(q.shape[:3], dtype=lse_dtype),
    )


def _fake_backward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> list[Tensor]:
    captures, learned = rest[4], rest[-1]
    return [x.new_empty(x.shape) for x in (q, k, v, *(captures[i] for i in learned))]


class Work(Protocol):
    """How attention is computed below autograd, and what of its captures belongs to the mask."""

    @property
    def mask_captures(self) -> int:
        """How many captured tensors, the first ones, are the mask's."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor]) -> Pair:
        """Output and lse."""

    def backward(
        self, saved: Saved, d_out: Tensor | None, d_lse: Tensor | None, learned: tuple[int, ...]
    ) -> Sequence[Tensor]:
        """Gradients of q, k, v and of the captures at the indices `learned`."""


class Differentiable(torch.autograd.Function):
    """Attention under autograd, each captured tensor an input of its own."""

    @staticmethod
    def forward(ctx: Any, work: Work, *tensors: Tensor) -> Pair:
        """Output and lse; tensors are q, k, v and the captures."""
        q, k, v, *captures = tensors
        out, lse = work.forward(q, k, v, captures)
        # Captures are saved for autograd's check that nobody has changed them since, too; inference
        # tensors have no such check, and autograd does not save them.
        ctx.work, ctx.unchecked = work, None
        saved = q, k, v, out, lse, *captures
        if any(map(Tensor.is_inference, tensors)):
            ctx.unchecked = {i: x for i, x in enumerate(saved) if x.is_inference()}
            ctx.save_for_backward(*(None if x.is_inference() else x for x in saved))
        else:
            ctx.save_for_backward(*saved)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> tuple[Any, ...]:
        """Gradients of the inputs of `forward`."""
        saved = ctx.saved_tensors
        if ctx.unchecked is not None:
            saved = tuple(ctx.unchecked.get(i, x) for i, x in enumerate(saved))
        count = len(saved) - _BEFORE_CAPTURES
        if count == 0:
            return None, *ctx.work.backward(saved, d_out, d_lse, ())
        wanted = ctx.needs_input_grad[4:]
        learned = tuple([i for i in range(ctx.work.mask_captures, count) if wanted[i]])
        d_q, d_k, d_v, *rest = ctx.work.backward(saved, d_out, d_lse, learned)
        found = dict(zip(learned, rest, strict=True))
        return None, d_q, d_k, d_v, *[found.get(i) for i in range(count)]


@dataclass(frozen=True, eq=False)
class _Dispatched:
    """The operator below autograd.

    Attributes:
        keys: the dispatcher's, of the call.
        numbers: as the operator takes them.
        static: the arguments after them.
    """

    keys: Any
    numbers: Tensor
    static: tuple[Any, ...]

    @property
    def mask_captures(self) -> int:
        return capture_count(self.static[0])

    def forward(self, q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor]) -> Pair:
        call = (q, k, v, captures, self.numbers, *self.static)
        with torch._C._AutoDispatchBelowAutograd():
            out, lse = attention.redispatch(self.keys & torch._C._after_autograd_keyset, *call)
        return out, lse

    def backward(
        self, saved: Saved, d_out: Tensor | None, d_lse: Tensor | None, learned: tuple[int, ...]
    ) -> Sequence[Tensor]:
        return differentiate(saved, d_out, d_lse, self.numbers, self.static, learned)


def differentiate(
    saved: Saved,
    d_out: Tensor | None,
    d_lse: Tensor | None,
    numbers: Tensor,
    static: tuple[Any, ...],
    learned: Sequence[int],
) -> Sequence[Tensor]:
    """Gradients by the operator `flexdsl::attention_backward`.

    Args:
        static: the arguments of the operator after `numbers`.
    """
    tensors, captures = saved[:_BEFORE_CAPTURES], saved[_BEFORE_CAPTURES:]
    gradients: list[Tensor] = attention_backward(
        *tensors, d_out, d_lse, captures, numbers, *static, learned
    )
    return gradients


def _autograd(
    keys: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Sequence[Tensor] | None,
    numbers: Tensor,
    *static: Any,
) -> Pair:
    """The operator where autograd may watch. `register_autograd` costs three times as much."""
    work = _Dispatched(keys, numbers, static)
    return differentiable(work, q, k, v, captures or ())


# What `Differentiable.apply` calls after a look for tensors that a transform left behind. That look
# takes long beside a short call, and they have no memory: no call on them is found among others.
_apply_plainly: Callable[..., Pair] = super(torch.autograd.Function, Differentiable).apply


def differentiable(
    work: Work,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Sequence[Tensor],
    *,
    known: bool = False,
) -> Pair:
    """Output and lse by `work`, with a gradient where autograd wants one.

    Args:
        known: nobody watches, and the call was found among those before.
    """
    if torch.is_grad_enabled():
        wanted = q.requires_grad or k.requires_grad or v.requires_grad
        for x in captures:
            wanted = wanted or x.requires_grad
        if wanted:
            apply = _apply_plainly if known else Differentiable.apply
            return apply(work, q, k, v, *captures)
    return work.forward(q, k, v, captures)


def _refuse(ctx: Any, *gradients: Any) -> None:
    raise BackendError(
        "attention has no second derivative",
        why="its backward pass recomputes the scores without recording them",
        fix="backend='reference' for a gradient of a gradient, on short sequences",
    )


# Not `custom_op`, whose checks of each call take longer than a small call itself; tests run them.
_LIBRARY: Any = cast(Any, torch.library.Library)("flexdsl", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag,)


def _define(name: str, schema: str, run: _Function, fake: _Function) -> torch._ops.OpOverload:
    _LIBRARY.define(name + schema, tags=_TAGS)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"flexdsl::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.flexdsl, name).default  # type: ignore[no-any-return]


attention = _define("attention", f"({_TENSORS}, {_CALL}) -> (Tensor, Tensor)", _attention, _fake)
attention_backward = _define(
    "attention_backward",
    f"({_TENSORS}, Tensor out, Tensor lse, Tensor? d_out, Tensor? d_lse, {_CALL}, int[] learned)"
    " -> Tensor[]",
    _attention_backward,
    _fake_backward,
)
_LIBRARY.impl("attention", _autograd, "Autograd", with_keyset=True)
torch.library.register_autograd("flexdsl::attention_backward", _refuse, lib=_LIBRARY)
