"""The score modification of a slab under autograd: its value, and the way back through it.

Used by the CPU's backward only. The weights of excluded pairs are zero, so that they carry no
gradient, even where the modification has no finite derivative at them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexdsl.ir import captures_of
from flexdsl.runtime.cpu import Workspace
from flexdsl.runtime.evaluate import evaluate
from flexdsl.runtime.problem import Problem
from flexdsl.runtime.slabs import Slab


def learned_captures(problem: Problem) -> dict[str, Tensor]:
    """The captured tensors of the score modification that require a gradient, by name."""
    if problem.score is None:
        return {}
    values = {c.name: problem.score_values[c.name] for c in captures_of(problem.score.expr)}
    return {name: value for name, value in values.items() if value.requires_grad}


@dataclass(frozen=True, eq=False)
class ModifiedScores:
    """The scores of a slab after the score modification.

    Attributes:
        scores: [n, g, rows, keys]. The caller turns them, in place, into weights before he pulls
            gradients back.
        variables: what the modification was evaluated at; `score` is a leaf of autograd.
        leaves: captured tensors that require a gradient as leaves, by name.
        graph: the modified scores as autograd knows them; None without a modification.
    """

    space: Workspace
    scores: Tensor
    variables: Mapping[str, Tensor]
    leaves: Mapping[str, Tensor]
    graph: Tensor | None

    def pull_back(self, dscores: Tensor, totals: Mapping[str, Tensor]) -> Tensor:
        """d(loss) / d(raw scores), given that by the modified ones; adds that by captures.

        Args:
            totals: sums of gradients of the captured tensors, by name, added to in place.
        """
        if self.graph is None:
            return dscores
        if not self.graph.requires_grad:
            return torch.zeros_like(dscores)
        inputs = [self.variables["score"], *self.leaves.values()]
        raw, *rest = torch.autograd.grad(self.graph, inputs, dscores, allow_unused=True)
        captured: Sequence[Tensor | None] = rest
        if any(g is not None and bool(g.isnan().any()) for g in captured):
            captured = self._pull_back_counting_pairs(dscores)
        for total, gradient in zip(totals.values(), captured, strict=True):
            if gradient is not None:
                total += gradient
        if raw is None:
            return torch.zeros_like(dscores)
        return raw.masked_fill_(self.scores == 0, 0.0)

    def _pull_back_counting_pairs(self, dscores: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the captured tensors by the pairs of non-zero weight alone.

        Slower, since nothing broadcasts, and needed where zero times an infinite derivative at an
        excluded pair has made a NaN.
        """
        counting = self.scores.nonzero(as_tuple=True)
        shape = self.scores.shape
        variables = {n: x.detach().expand(shape)[counting] for n, x in self.variables.items()}
        with torch.enable_grad():
            graph = _evaluate(self.space, variables, self.leaves).expand(len(counting[0]))
        leaves = list(self.leaves.values())
        return torch.autograd.grad(graph, leaves, dscores[counting], allow_unused=True)


def differentiable_scores(space: Workspace, slab: Slab, raw: Tensor) -> ModifiedScores:
    """Apply the score modification to the `raw` scores [n, g, rows, keys] of a slab."""
    if space.problem.score is None:
        return ModifiedScores(space, raw, {}, {}, None)
    leaves = {
        name: value.detach().to(space.dtype).requires_grad_()
        for name, value in learned_captures(space.problem).items()
    }
    with torch.enable_grad():
        variables = space.positions(slab) | {"score": raw.detach().requires_grad_()}
        graph = _evaluate(space, variables, leaves).expand(raw.shape)
    return ModifiedScores(space, graph.detach().clone(), variables, leaves, graph)


def _evaluate(
    space: Workspace, variables: Mapping[str, Tensor], leaves: Mapping[str, Tensor]
) -> Tensor:
    assert space.problem.score is not None
    values = {**space.problem.score_values, **leaves}
    return evaluate(space.problem.score.expr, variables, values, space.dtype)
