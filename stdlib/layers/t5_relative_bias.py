"""T5's relative position bias as a layer.

    score + table[bucket(kv - q), h]

Source: Raffel et al. 2020, https://arxiv.org/abs/1910.10683; see `t5_bias`. T5 does not scale its
scores: call attention with scale=1.0.
"""

from __future__ import annotations

from typing import Any

import torch

import flexdsl as fx

from ..arguments import integer_at_least
from ..tables.t5_buckets import t5_buckets
from .module import ModModule


class T5RelativeBias(ModModule):
    """Pass it as `score=`.

    Attributes:
        table: the parameter, float32 [buckets, heads], as in T5's checkpoints
            (`relative_attention_bias.weight`).
        buckets: int32 buffer [2 * max_distance + 1], not saved.
    """

    table: torch.nn.Parameter
    buckets: torch.Tensor

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ) -> None:
        """Start from zeros.

        Args:
            num_heads: number of query heads.
            num_buckets, max_distance, bidirectional: as in `t5_buckets`.

        Raises:
            ArgumentError: a number is out of its range.
        """
        super().__init__()
        buckets = t5_buckets(num_buckets, max_distance, bidirectional=bidirectional)
        heads = integer_at_least(1, "num_heads", num_heads)
        self.table = torch.nn.Parameter(torch.zeros(num_buckets, heads))
        self.register_buffer("buckets", torch.from_numpy(buckets), persistent=False)
        self.max_distance = max_distance

    def forward(self, score: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        """The score of one pair, with the bias."""
        farthest = self.max_distance
        distance = fx.maximum(-farthest, fx.minimum(kv - q, farthest))
        return score + self.table[self.buckets[distance + farthest], h]
