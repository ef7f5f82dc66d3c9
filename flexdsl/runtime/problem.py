"""What an executor is given: one call of `attention`, checked and bound; and what it finds out.

Data only; who makes it is `bind.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flexdsl.ir import Program

if TYPE_CHECKING:
    from flexdsl.analysis import BlockPlan


@dataclass(frozen=True, eq=False)
class Problem:
    """One call.

    Attributes:
        mask, score: the modifications, or None.
        mask_values, score_values: parameters as numbers and captures as torch tensors on the
            device of q, by name.
        plan: which tiles of the mask are live.
        scale: factor of the scores.
        q_offset: position of the first query.
        learned: names of the captured tensors of the score whose gradients are wanted.
    """

    mask: Program | None
    score: Program | None
    mask_values: Mapping[str, Any]
    score_values: Mapping[str, Any]
    plan: BlockPlan
    scale: float
    q_offset: int
    learned: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class Passes:
    """How an executor runs calls of one kind, which it finds out once.

    Attributes:
        forward: what gives output and lse of q, k and v; None before it is known.
        backward: what gives their gradients and those of captured tensors, by what that depends on
            beside the kind of call.
        plan: of an executor that has one for a call; None before it is known.
    """

    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]] | None
    backward: dict[Hashable, Callable[..., Sequence[Tensor]]]
    plan: BlockPlan | None = None
