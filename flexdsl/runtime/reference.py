"""The reference: dense float64 attention, the oracle that every executor is compared with.

Deliberately simple and slow: it holds all pairs, and asks the user's own function, on plain
numbers, about each. It uses no plan, no analysis and no executor. Gradients run through torch's
autograd; only where a score modification is differentiated is its expression evaluated on tensors
(`evaluate.py`), since a call on plain numbers has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from flexdsl.ir import Expr
from flexdsl.runtime.evaluate import evaluate

MaskFunction = Callable[[int, int, int, int], bool]
ScoreFunction = Callable[[float, int, int, int, int], float]
Modify = Callable[..., Tensor]  # of scores [B, H, Lq, Lkv], and the keywords q_offset and allowed


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    allowed: Tensor | None = None,
    modify: Callable[[Tensor], Tensor] | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention with every pair in memory.

    Args:
        q, k, v: [B, Hq, Lq, D], [B, Hkv, Lkv, D], [B, Hkv, Lkv, Dv] of any float dtype.
        allowed: bool that broadcasts to [B, Hq, Lq, Lkv]; None allows all pairs.
        modify: takes and gives the scaled float64 scores [B, Hq, Lq, Lkv].
        scale: factor of the scores; None for 1 / sqrt(D).

    Returns:
        Output [B, Hq, Lq, Dv] and the natural logarithm of the sum of exponentials [B, Hq, Lq],
        in float64. A row without an allowed key has output 0 and lse -inf.
    """
    q, k, v = q.double(), k.double(), v.double()
    group = q.shape[1] // max(1, k.shape[1])
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    factor = 1.0 / math.sqrt(q.shape[3]) if scale is None else scale
    scores = factor * (q @ k.transpose(2, 3))
    if modify is not None:
        scores = modify(scores)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    # Zeros before the softmax and again after it, so that autograd meets no NaN in an empty row.
    empty = (scores == -math.inf).all(3, keepdim=True)
    scores = scores.masked_fill(empty, 0.0)
    weights = torch.softmax(scores, 3).masked_fill(empty, 0.0)
    lse = torch.logsumexp(scores, 3).masked_fill(empty.squeeze(3), -math.inf)
    return weights @ v, lse


def mask_table(mask: MaskFunction, shape: tuple[int, int, int, int], q_offset: int = 0) -> Tensor:
    """What `mask` says of every pair: bool [B, H, Lq, Lkv], one call on plain ints each."""
    pairs = product(*(range(n) for n in shape))
    answers = [bool(mask(b, h, q + q_offset, kv)) for b, h, q, kv in pairs]
    return torch.tensor(answers, dtype=torch.bool).reshape(shape)


def apply_score(
    score: ScoreFunction, scores: Tensor, q_offset: int = 0, allowed: Tensor | None = None
) -> Tensor:
    """`score` of elements of `scores` [B, H, Lq, Lkv], one call on plain numbers each.

    Args:
        allowed: bool [B, H, Lq, Lkv], the pairs that are asked about, as a score may have no value
            elsewhere; None for all. The others keep their scores.
    """
    changed = scores.clone()
    for b, h, q, kv in _pairs(scores, allowed).tolist():
        changed[b, h, q, kv] = float(score(scores[b, h, q, kv].item(), b, h, q + q_offset, kv))
    return changed


def evaluate_score(
    expr: Expr,
    values: Mapping[str, Any],
    scores: Tensor,
    q_offset: int = 0,
    allowed: Tensor | None = None,
) -> Tensor:
    """The score modification `expr` of `scores` [B, H, Lq, Lkv] at once, differentiable.

    Args:
        allowed: as of `apply_score`. A derivative may be infinite elsewhere, too.
    """
    at = b, h, q, kv = _pairs(scores, allowed).unbind(1)
    variables = {"score": scores[at], "b": b, "h": h, "q": q + q_offset, "kv": kv}
    changed = evaluate(expr, variables, values, scores.dtype).expand(len(b))
    return scores.index_put(at, changed)


def _pairs(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Indices [pairs, 4] of the pairs that are allowed."""
    return (torch.ones_like(scores, dtype=torch.bool) if allowed is None else allowed).nonzero()


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: MaskFunction | None = None,
    score: ScoreFunction | None = None,
    modify: Modify | None = None,
    scale: float | None = None,
    q_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Attention that asks the user's functions, on plain numbers, about every pair.

    Shapes and result as `dense_attention`. `modify` stands in for `score` where a gradient must
    run through it.
    """
    shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    allowed = None if mask is None else mask_table(mask, shape, q_offset).to(q.device)
    if modify is None and score is not None:
        modify = partial(apply_score, score)
    if modify is not None:
        modify = partial(modify, q_offset=q_offset, allowed=allowed)
    return dense_attention(q, k, v, allowed=allowed, modify=modify, scale=scale)
