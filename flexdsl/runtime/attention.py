"""`attention`: the public function. It checks, binds, plans and hands over to one executor.

What it must not do: fall back in silence. An executor that cannot run a call raises.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from flexdsl.errors import BackendError
from flexdsl.runtime import bind, cpu_backward, reference, validate
from flexdsl.runtime.problem import Problem
from flexdsl.runtime.slabs import TILE

Pair = tuple[Tensor, Tensor]


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any = None,
    score: Any = None,
    scale: float | None = None,
    q_offset: int = 0,
    return_lse: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any = None,
    score: Any = None,
    scale: float | None = None,
    q_offset: int = 0,
    return_lse: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any = None,
    score: Any = None,
    scale: float | None = None,
    q_offset: int = 0,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(score(scale * q k^T) where mask allows) v, without a matrix of all pairs.

    Autograd reaches q, k, v and float tensors that `score` captures. A row without an allowed key
    has output 0, lse -inf and gradient 0.

    Args:
        q: [B, Hq, Lq, D], float16, bfloat16 or float32 (float64 too on the CPU), any strides.
        k: [B, Hkv, Lkv, D] of the same dtype and device; Hq is a multiple of Hkv, and query head h
            uses key head h // (Hq / Hkv).
        v: [B, Hkv, Lkv, Dv].
        mask: which pairs are allowed: a mask mod, a function (b, h, q, kv) -> bool, text, or a
            `BlockPlan` made for these lengths; None for all.
        score: changes the scaled score: a score mod, a function (score, b, h, q, kv) -> float, or
            text; None for no change.
        scale: factor of the scores; None for 1 / sqrt(D).
        q_offset: position of the first query. Position of row r is q_offset + r; keys count from 0.
        return_lse: also give the natural logarithm of each row's sum of exponentials.
        backend: "auto" (the GPU's kernels on its tensors, else "cpu"), "triton", "cpu", or
            "reference": dense float64, slow, asks the user's function about every pair.

    Returns:
        Output [B, Hq, Lq, Dv] in q's dtype; with `return_lse` also lse [B, Hq, Lq], float32
        (float64 for float64).

    Raises:
        ArgumentError: a shape, dtype, device or value that does not fit; it says what would.
        KindError, ResultError, BranchError, ...: the mask or score cannot be read.
        CaptureError, IndexRangeError: a captured tensor does not fit the call.
        PlanError: the plan was made for other lengths.
        BackendError: the backend cannot run this call here.
    """
    validate.check_tensors(q, k, v)
    factor = validate.check_scale(scale, q.shape[3])
    offset = validate.check_q_offset(q_offset)
    backend = validate.check_backend(backend, q)
    lengths = bind.Lengths(q.shape[0], q.shape[1], q.shape[2], k.shape[2], offset)
    bound = bind.bind(mask, score, lengths, q.device)
    run = {"cpu": _cpu, "triton": _triton, "reference": _reference}[backend]
    out, lse = run(bound, factor, q, k, v)
    return (out, lse) if return_lse else out


def _cpu(bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor) -> Pair:
    plan = bound.plan
    if plan is None:
        plan = bind.find_plan(bound.mask, bound.lengths, TILE)
    values = bound.mask_values, bound.score_values
    problem = Problem(bound.mask, bound.score, *values, plan, scale, bound.lengths.q_offset)
    return cpu_backward.attention(problem, q, k, v)


def _triton(bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor) -> Pair:
    learned = [n for n, x in bound.score_values.items() if _requires_gradient(x)]
    if learned:
        raise BackendError(
            f"{learned[0]}, captured by the score modification, requires a gradient, and"
            " backend 'triton' has none for it",
            fix="backend='cpu', which has; or the captured tensor without requires_grad",
        )
    from flexdsl.runtime.triton_backward import attention

    return attention(bound, scale, q, k, v)


def _reference(bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor) -> Pair:
    modify = None
    if bound.score is not None and _needs_gradient(bound, q, k, v):
        modify = partial(reference.evaluate_score, bound.score.expr, bound.score_values)
    out, lse = reference.reference(
        q,
        k,
        v,
        mask=bound.mask_function,
        score=bound.score_function,
        modify=modify,
        scale=scale,
        q_offset=bound.lengths.q_offset,
    )
    return out.to(q.dtype), lse.to(torch.promote_types(q.dtype, torch.float32))


def _needs_gradient(bound: bind.Bound, q: Tensor, k: Tensor, v: Tensor) -> bool:
    return any(_requires_gradient(x) for x in (q, k, v, *bound.score_values.values()))


def _requires_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()
