"""The CPU executor, backward: gradients by recomputing the scores slab by slab.

Gradients reach q, k, v and the float tensors that the score modification captures, from the output
and from lse. What is kept for it, and when it is called, is autograd's: see `operator.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexdsl.runtime.cpu import (
    Workspace,
    exclude,
    gather,
    raw_scores,
    split_heads,
)
from flexdsl.runtime.cpu_score import differentiable_scores, learned_captures
from flexdsl.runtime.slabs import Slab, shares
from flexdsl.runtime.workers import for_each


@dataclass(frozen=True, eq=False)
class Gradients:
    """Sums of gradients, in the layout of the workspace; `captures` by name."""

    q: Tensor
    k: Tensor
    v: Tensor
    captures: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class _Incoming:
    """What comes back, in the workspace's layout: lse, and d(loss) / d(output) with its share.

    Attributes:
        lse: [N, G, Lq], 0 where a row is empty, so that exp(-inf - lse) is 0 there.
        dout: [N, G, Lq, Dv].
        dlse: [N, G, Lq], or None for zero.
    """

    lse: Tensor
    dout: Tensor
    dlse: Tensor | None


def backward(space: Workspace, lse: Tensor, dout: Tensor | None, dlse: Tensor | None) -> Gradients:
    """All gradients of a call.

    Args:
        lse: what the forward gave, [B, Hq, Lq].
        dout, dlse: gradients of the loss by them, or None for zero.
    """
    incoming = _incoming(space, lse, dout, dlse)
    learned = learned_captures(space.problem)
    total = Gradients(
        torch.zeros_like(space.q, dtype=space.dtype),
        torch.zeros_like(space.k),
        torch.zeros_like(space.v),
        {name: torch.zeros(x.shape, dtype=space.dtype) for name, x in learned.items()},
    )
    todo = space.slabs()
    parts = [
        (
            share,
            replace(total, captures={n: torch.zeros_like(x) for n, x in total.captures.items()}),
        )
        for share in shares(todo, space.q.shape[0], 4 * torch.get_num_threads())
    ]

    def work(buffers: tuple[Tensor, Tensor], part: tuple[list[Slab], Gradients]) -> None:
        for slab in part[0]:
            if slab.keys.count:
                _backward_slab(space, slab, incoming, part[1], buffers)

    for_each(parts, lambda: (space.buffer(todo), space.buffer(todo)), work)
    # Each part has its own sums, added in one order, so that a call always gives the same bits.
    for _, part in parts:
        for name, sum in part.captures.items():
            total.captures[name].add_(sum)
    return total


def _incoming(space: Workspace, lse: Tensor, dout: Tensor | None, dlse: Tensor | None) -> _Incoming:
    count = space.q.shape[0]
    lse = split_heads(lse, count)
    empty = lse == -math.inf
    if dout is None:
        dout = torch.zeros(*lse.shape, space.v.shape[-1], dtype=space.dtype)
    else:
        dout = split_heads(dout, count).to(space.dtype)
    # Whatever comes back for an empty row, NaN included, ends there.
    dout = dout.masked_fill(empty.unsqueeze(-1), 0.0)
    if dlse is not None:
        dlse = split_heads(dlse, count).masked_fill(empty, 0.0)
    return _Incoming(lse.masked_fill(empty, 0.0), dout, dlse)


def _backward_slab(
    space: Workspace,
    slab: Slab,
    incoming: _Incoming,
    result: Gradients,
    buffers: tuple[Tensor, Tensor],
) -> None:
    """Add the gradients that the slab's scores carry to `result`."""
    index = slab.heads, slab.groups, slab.rows
    queries = space.queries(slab)
    dout = incoming.dout[index].flatten(1, 2)
    raw = raw_scores(space, slab, queries, buffers[0])
    modified = differentiable_scores(space, slab, raw.view(space.shape(slab)))
    weights = modified.scores
    exclude(space, slab, weights)
    weights.sub_(incoming.lse[index].unsqueeze(-1)).exp_()
    flat = weights.view(raw.shape)
    _scatter_add(result.v, slab, torch.bmm(flat.transpose(1, 2), dout))

    dscores = buffers[1][: flat.numel()].view(flat.shape)
    torch.bmm(dout, gather(space.v, slab).transpose(1, 2), out=dscores)
    # The slab has all keys of its rows. sum(dout * out) is this sum, but for the rounding of out.
    dscores.mul_(flat)
    delta = dscores.sum(-1)
    if incoming.dlse is not None:
        delta.sub_(incoming.dlse[index].flatten(1, 2))
    dscores.addcmul_(flat, delta.unsqueeze(-1), value=-1.0)
    draw = modified.pull_back(dscores.view(weights.shape), result.captures).reshape(flat.shape)
    dqueries = torch.bmm(draw, gather(space.k, slab)).mul_(space.problem.scale)
    result.q[index] = dqueries.view(*weights.shape[:3], -1)
    _scatter_add(result.k, slab, torch.bmm(draw.transpose(1, 2), queries))


def _scatter_add(total: Tensor, slab: Slab, part: Tensor) -> None:
    """Add `part` [n, keys, D] to the slab's keys in `total` [N, Lkv, D]."""
    column = 0
    for segment in slab.keys.segments:
        length = segment.stop - segment.start
        total[slab.heads, segment] += part[:, column : column + length]
        column += length
