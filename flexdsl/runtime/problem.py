"""What an executor is given: one call of `attention`, checked and bound.

Data only; who makes it is `bind.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
