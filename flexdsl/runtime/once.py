"""Gradients that must not be differentiated again: torch would take them for constants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from flexdsl.errors import BackendError


def once_differentiable(
    gradients: Sequence[Tensor], depends: Iterable[Tensor | None]
) -> tuple[Tensor, ...]:
    """`gradients`, for which a second derivative is an error that explains itself.

    Args:
        gradients: results of a backward pass.
        depends: the tensors that they were computed from; None is passed over.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    tensors = [x for x in depends if x is not None]
    return tuple(_Final.apply(g, *tensors) for g in gradients)


class _Final(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *depends: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise BackendError(
            "attention has no second derivative",
            why="its backward pass recomputes the scores without recording them",
            fix="backend='reference' for a gradient of a gradient, on short sequences",
        )
