"""T5's relative position bias: a learned number for each bucket of distances and each head.

    score + table[bucket(kv - q), h]

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", https://arxiv.org/abs/1910.10683. `t5_buckets` has the buckets. T5 does not scale its
scores: call attention with scale=1.0. One table serves all layers.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of
from ..tables.t5_buckets import t5_buckets


def t5_bias(table: Any, *, bidirectional: bool = True, max_distance: int = 128) -> fx.Mod:
    """Each head adds what it has learned for the bucket of the distance.

    Args:
        table: float array or tensor [buckets, heads]; a learned one gets its gradient.
        bidirectional: an encoder's buckets, half of them for later keys; else a decoder's.
        max_distance: distance from which on all keys share a bucket.

    Raises:
        ArgumentError: the table is no such array, or its buckets do not fit.

    t5_bias([[0.0], [1.0], [2.0], [3.0]], max_distance=2), of a score of 0:

        0 3 3 3
        1 0 3 3
        1 1 0 3
        1 1 1 0
    """
    biases = array_of("table", table, (2,), "float")
    buckets = t5_buckets(int(biases.shape[0]), max_distance, bidirectional=bidirectional)
    farthest = max_distance

    @fx.score_mod
    def t5_bias(score: float, b: int, h: int, q: int, kv: int) -> float:
        place = fx.maximum(0, fx.minimum(kv - q + farthest, 2 * farthest))
        return score + biases[buckets[place], h]

    return t5_bias
