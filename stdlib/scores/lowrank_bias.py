"""FlashBias: a bias that is a product of two thin matrices, computed from them.

    score + sum over r of q_factors[q, r] * k_factors[kv, r]

Source: Wu et al. 2025, "FlashBias: Fast Computation of Attention with Bias",
https://arxiv.org/abs/2505.12044. `approximate` finds the factors of a table. The bias is added
after the scale.

With q, k and v of 16 bits, kernels add it by one more matrix product, as exact as float32 products
are: a rank is three of its columns if one of the two tensors is bfloat16, six if neither is of 16
bits, and there may be 96. In a backward pass that finds gradients of the factors, pairs add it up.

Claim (the paper's, not measured here): 1.5 times as fast in AlphaFold 3's Pairformer, more than 2
times in vision and language models.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, check_shape


def lowrank_bias(q_factors: Any, k_factors: Any) -> fx.Mod:
    """The inner product of a query's and a key's factors, added to the score.

    Args:
        q_factors: float array or tensor [q_len, rank], or with [heads] or [batch, heads] before; a
            learned one gets its gradient.
        k_factors: float array or tensor [kv_len, rank], with the same dimensions before.

    Raises:
        ArgumentError: the two have different dimensions or ranks.

    lowrank_bias([[1.0], [2.0], [3.0]], [[0.0], [1.0], [2.0]]), of a score of 0:

        0 1 2
        0 2 4
        0 3 6
    """
    x = array_of("q_factors", q_factors, (2, 3, 4), "float")
    y = array_of("k_factors", k_factors, (2, 3, 4), "float")
    *leading, _, rank = x.shape
    check_shape("k_factors", y, (*leading, None, rank), "as q_factors, but for the tokens")
    count, axes = int(rank), len(leading)

    @fx.score_mod
    def lowrank_bias(score: float, b: int, h: int, q: int, kv: int) -> float:
        before = (b, h)[2 - axes :]
        for r in range(count):
            score = score + x[(*before, q, r)] * y[(*before, kv, r)]
        return score

    return lowrank_bias
