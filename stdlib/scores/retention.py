"""Retention's decay: a score shrinks by its head's factor with every token in between.

    score * gamma[h] ** (q - kv) for kv <= q, else 0

Source: Sun et al. 2023, "Retentive Network: A Successor to Transformer for Large Language Models",
https://arxiv.org/abs/2307.08621. There is no softmax in a retentive network: this is its decay on
the scores of one, for what lies between the two.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, refuse
from ..tables.retention_decays import retention_decays


def retention(heads: int | None = None, *, decays: Any = None) -> fx.Mod:
    """The score of a key, less the farther back it is. Use it with a causal mask.

    Args:
        heads: number of query heads, whose decays are `retention_decays(heads)`.
        decays: instead of heads, a float array or tensor [heads] of numbers in (0, 1].

    Raises:
        ArgumentError: not exactly one of heads and decays is given, or it is of a wrong kind.

    retention(decays=[0.5]), of a score of 8:

        8 0 0 0
        4 8 0 0
        2 4 8 0
        1 2 4 8
    """
    if (heads is None) == (decays is None):
        raise refuse("retention takes a number of heads or decays, and one of them")
    given = retention_decays(heads) if heads is not None else decays
    gamma = array_of("decays", given, (1,), "float")

    @fx.score_mod
    def retention(score: float, b: int, h: int, q: int, kv: int) -> float:
        back = fx.maximum(q - kv, 0)
        return score * fx.where(q >= kv, fx.exp2(fx.log2(gamma[h]) * back), 0.0)

    return retention
