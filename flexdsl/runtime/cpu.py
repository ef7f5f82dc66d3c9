"""The CPU executor, forward: real work without a GPU, as large matrix products.

For each slab (`slabs.py`): scores of all live keys at once, the score modification everywhere, the
mask on the columns of partial tiles, a softmax in place, and the product with the values. float16
and bfloat16 are computed in float32, float64 in float64. Beyond the inputs and outputs (and their
float32 copies) it holds a few slabs of scores for each thread, never a matrix of all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexdsl.runtime.evaluate import evaluate
from flexdsl.runtime.problem import Problem
from flexdsl.runtime.slabs import Slab, slabs
from flexdsl.runtime.workers import for_each


@dataclass(frozen=True, eq=False)
class Workspace:
    """The tensors of a call in the layout that slabs index.

    Attributes:
        problem: the call.
        q: [N, G, Lq, D], N = batch * key heads, G = query heads for each; in the caller's dtype.
        k, v: [N, Lkv, D] and [N, Lkv, Dv] in `dtype`.
        kv_heads: key heads, to tell batch and head of an index below N.
        dtype: of all arithmetic, float32 or float64.
    """

    problem: Problem
    q: Tensor
    k: Tensor
    v: Tensor
    kv_heads: int
    dtype: torch.dtype

    @property
    def batch(self) -> int:
        """Number of batches."""
        return self.q.shape[0] // max(1, self.kv_heads)

    def slabs(self) -> list[Slab]:
        """Every slab of the call."""
        return list(slabs(self.problem.plan, self.batch, self.kv_heads, self.q.shape[1]))

    def shape(self, slab: Slab) -> tuple[int, int, int, int]:
        """Shape of a slab's scores: [n, g, rows, keys]."""
        heads, group, length = (range(n) for n in self.q.shape[:3])
        counts = len(heads[slab.heads]), len(group[slab.groups]), len(length[slab.rows])
        return (*counts, slab.keys.count)

    def buffer(self, todo: Sequence[Slab]) -> Tensor:
        """Room for the scores of the largest slab, without content."""
        largest = max((math.prod(self.shape(slab)) for slab in todo), default=0)
        return self.q.new_empty(largest, dtype=self.dtype)

    def queries(self, slab: Slab) -> Tensor:
        """The scaled queries of a slab, [n, g * rows, D]."""
        rows = self.q[slab.heads, slab.groups, slab.rows].to(self.dtype)
        return (rows * self.problem.scale).flatten(1, 2)

    def positions(self, slab: Slab, columns: slice = slice(None)) -> dict[str, Tensor]:
        """b, h, q, kv of the slab's scores [n, g, rows, columns], as tensors that broadcast."""
        head = torch.arange(self.q.shape[0])[slab.heads].view(-1, 1, 1, 1)
        group = torch.arange(self.q.shape[1])[slab.groups].view(1, -1, 1, 1)
        row = torch.arange(slab.rows.start, slab.rows.stop) + self.problem.q_offset
        keys = torch.cat([torch.arange(s.start, s.stop) for s in slab.keys.segments])
        return {
            "b": head // self.kv_heads,
            "h": head % self.kv_heads * self.q.shape[1] + group,
            "q": row.view(1, 1, -1, 1),
            "kv": keys[columns].view(1, 1, 1, -1),
        }


def workspace(problem: Problem, q: Tensor, k: Tensor, v: Tensor) -> Workspace:
    """The tensors of a call, copied only where their strides or dtype ask for it.

    Args:
        q, k, v: [B, Hq, Lq, D], [B, Hkv, Lkv, D], [B, Hkv, Lkv, Dv].
    """
    dtype = torch.float64 if q.dtype is torch.float64 else torch.float32
    kv_heads = k.shape[1]
    k, v = (_dense(x.to(dtype)).flatten(0, 1) for x in (k, v))
    return Workspace(problem, split_heads(q, k.shape[0]), k, v, kv_heads, dtype)


def _dense(x: Tensor) -> Tensor:
    """`x` with elements of its last dimension next to each other, as matrix products want it."""
    return x if x.stride(-1) == 1 else x.contiguous()


def split_heads(x: Tensor, count: int) -> Tensor:
    """[B, Hq, ...] as [count, G, ...], count = B * Hkv, a view where strides allow it."""
    return x.flatten(0, 1).unflatten(0, (count, x.shape[0] * x.shape[1] // max(1, count)))


def gather(x: Tensor, slab: Slab) -> Tensor:
    """The slab's keys or values of `x` [N, Lkv, D]: a view where they are one range."""
    parts = [x[slab.heads, segment] for segment in slab.keys.segments]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def exclude(space: Workspace, slab: Slab, scores: Tensor) -> None:
    """Set to -inf, in place, what the mask does not allow of `scores` [n, g, rows, keys]."""
    problem = space.problem
    if problem.mask is None:
        return
    for columns in slab.keys.partial:
        positions = space.positions(slab, columns)
        allowed = evaluate(problem.mask.expr, positions, problem.mask_values, space.dtype)
        scores[..., columns].masked_fill_(allowed.logical_not(), -math.inf)


def forward(space: Workspace) -> tuple[Tensor, Tensor]:
    """Output [N, G, Lq, Dv] in q's dtype, and lse [N, G, Lq] in the dtype of the arithmetic."""
    q = space.q
    out = q.new_empty(*q.shape[:3], space.v.shape[2])
    lse = q.new_empty(q.shape[:3], dtype=space.dtype)
    todo = space.slabs()

    def work(buffer: Tensor, slab: Slab) -> None:
        index = slab.heads, slab.groups, slab.rows
        if slab.keys.count == 0:
            out[index], lse[index] = 0.0, -math.inf
        else:
            out[index], lse[index] = _forward_slab(space, slab, buffer)

    # Later rows often have more keys: the largest pieces first leave no thread waiting at the end.
    for_each(todo[::-1], lambda: space.buffer(todo), work)
    return out, lse


def _forward_slab(space: Workspace, slab: Slab, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Output [n, g, rows, Dv] and lse [n, g, rows] of a slab."""
    flat = raw_scores(space, slab, space.queries(slab), buffer)
    scores = flat.view(space.shape(slab))
    score = space.problem.score
    if score is not None:
        variables = space.positions(slab) | {"score": scores}
        scores.copy_(evaluate(score.expr, variables, space.problem.score_values, space.dtype))
    exclude(space, slab, scores)
    lse = _softmax_(scores)
    out = torch.bmm(flat, gather(space.v, slab))
    return out.view(*scores.shape[:3], -1), lse


def raw_scores(space: Workspace, slab: Slab, queries: Tensor, buffer: Tensor) -> Tensor:
    """The scaled scores of a slab, [n, g * rows, keys], written to the start of `buffer`."""
    shape = (*queries.shape[:2], slab.keys.count)
    scores = buffer[: math.prod(shape)].view(shape)
    return torch.bmm(queries, gather(space.k, slab).transpose(1, 2), out=scores)


def _softmax_(scores: Tensor) -> Tensor:
    """Softmax in place over the last dimension; gives lse. A row of -inf becomes 0, lse -inf.

    The largest weight is exp(0) / sum, which gives the sum without another pass of exponentials.
    """
    top = scores.amax(-1)
    torch.softmax(scores, -1, out=scores)
    lse = top - scores.amax(-1).log()
    empty = top == -math.inf
    if bool(empty.any()):
        scores.masked_fill_(empty.unsqueeze(-1), 0.0)
        lse.masked_fill_(empty, -math.inf)
    return lse
