"""The score modification of a slab, forward and back: its value, and gradients through it.

Used by the CPU's backward only. The derivative is the expression's own, as the generated kernels
have it. The weights of excluded pairs are zero, so that they carry no gradient, even where the
modification has no finite derivative at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from flexdsl.analysis.derivative import derivatives
from flexdsl.ir import Capture, Expr, Op, var
from flexdsl.runtime.cpu import Workspace
from flexdsl.runtime.evaluate import evaluate
from flexdsl.runtime.problem import Problem
from flexdsl.runtime.slabs import Slab


def learned_captures(problem: Problem) -> dict[str, Tensor]:
    """The captured tensors of the score modification whose gradients are wanted, by name."""
    return {name: problem.score_values[name] for name in problem.learned}


@dataclass(frozen=True, eq=False)
class ModifiedScores:
    """The scores of a slab after the score modification.

    Attributes:
        scores: [n, g, rows, keys]. The caller turns them, in place, into weights before he pulls
            gradients back.
        variables: what the modification was evaluated at; `score` has the raw scores.
    """

    space: Workspace
    scores: Tensor
    variables: Mapping[str, Tensor]

    def pull_back(self, dscores: Tensor, totals: Mapping[str, Tensor]) -> Tensor:
        """d(loss) / d(raw scores), given that by the modified ones; adds that by captures.

        Args:
            totals: sums of gradients of the captured tensors, by name, added to in place.
        """
        score = self.space.problem.score
        if score is None:
            return dscores
        partials = _derivatives(score.expr)
        for node, partial in partials.items():
            capture = node.attribute
            if isinstance(capture, Capture) and capture.name in totals:
                self._add(totals[capture.name], node.args, self._product(dscores, partial))
        raw = partials.get(var("score"))
        return torch.zeros_like(dscores) if raw is None else self._product(dscores, raw)

    def _product(self, dscores: Tensor, partial: Expr) -> Tensor:
        """The gradient times a derivative, 0 at pairs without weight."""
        return (dscores * self._evaluate(partial)).masked_fill_(self.scores == 0, 0.0)

    def _add(self, total: Tensor, index: tuple[Expr, ...], part: Tensor) -> None:
        """Add `part` [n, g, rows, keys] to the elements of `total` that were loaded.

        Sums over what the index does not depend on come first. The order is always the same.
        """
        place = part.new_zeros((), dtype=torch.int64)
        for expr, length in zip(index, total.shape, strict=True):
            place = place * length + self._evaluate(expr).clamp(0, length - 1)
        part = part.sum_to_size(place.shape)
        total.view(-1).index_add_(0, place.flatten(), part.flatten())

    def _evaluate(self, expr: Expr) -> Tensor:
        values = self.space.problem.score_values
        return evaluate(expr, self.variables, values, self.space.dtype)


def differentiable_scores(space: Workspace, slab: Slab, raw: Tensor) -> ModifiedScores:
    """Apply the score modification to the `raw` scores [n, g, rows, keys] of a slab."""
    score = space.problem.score
    if score is None:
        return ModifiedScores(space, raw, {})
    variables = space.positions(slab) | {"score": raw}
    modified = evaluate(score.expr, variables, space.problem.score_values, space.dtype)
    return ModifiedScores(space, modified.expand(raw.shape).clone(), variables)


@lru_cache(maxsize=64)
def _derivatives(score: Expr) -> dict[Expr, Expr]:
    """Derivatives of a score by itself and by each element that it loads."""
    leaves = (Op.LOAD, Op.VAR)
    return {node: d for node, d in derivatives(score).items() if node.op in leaves}
