"""ALiBi as a layer, its slopes fixed or learned.

    score + slopes[h] * (kv - q)

Source: Press et al. 2022, https://arxiv.org/abs/2108.12409; see `alibi`.
"""

from __future__ import annotations

from typing import Any

import torch

from ..tables.alibi_slopes import Rule, alibi_slopes
from .module import ModModule


class ALiBi(ModModule):
    """Pass it as `score=`, with a causal mask.

    Attributes:
        slopes: float32 [heads], a parameter where learned, else a buffer.
    """

    slopes: torch.Tensor

    def __init__(
        self, num_heads: int, *, rule: Rule = "interleaved", learned: bool = False
    ) -> None:
        """Start from the paper's slopes.

        Args:
            num_heads: number of query heads.
            rule: as in `alibi_slopes`.
            learned: slopes are a parameter.

        Raises:
            ArgumentError: num_heads is less than 1, or there is no such rule.
        """
        super().__init__()
        slopes = torch.from_numpy(alibi_slopes(num_heads, rule))
        if learned:
            self.slopes = torch.nn.Parameter(slopes)
        else:
            self.register_buffer("slopes", slopes)

    def forward(self, score: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        """The score of one pair, with the bias."""
        return score + self.slopes[h] * (kv - q)
