"""Selective self-attention's temperature of a position: late queries are sharper.

    score * (1 + exp(-exp(beta[h])) * log(q + 1))

Source: Zhang et al. 2024, "Selective Attention: Enhancing Transformer through Principled Context
Control", https://arxiv.org/abs/2411.12892. Its temperature of a token multiplies the query before
attention and is no score modification.

Claim (the paper's, not measured here): less than 0.5% more parameters.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of


def selective_temperature(beta: Any) -> fx.Mod:
    """The score times a factor that grows with the logarithm of the query's position.

    Args:
        beta: float array or tensor [heads], learned, 1.5 or 2.0 at the start.

    Raises:
        ArgumentError: beta is no such array.

    selective_temperature([0.0]), of a score of 8:

           8    8    8    8
          10   10   10   10
        11.2 11.2 11.2 11.2
        12.1 12.1 12.1 12.1
    """
    exponent = array_of("beta", beta, (1,), "float")

    @fx.score_mod
    def selective_temperature(score: float, b: int, h: int, q: int, kv: int) -> float:
        return score * (1.0 + fx.exp(-fx.exp(exponent[h])) * fx.log(1.0 + q))

    return selective_temperature
