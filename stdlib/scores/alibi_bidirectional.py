"""ALiBi for attention that is not causal: the penalty is of the distance to either side.

    score - slopes[h] * abs(q - kv)

Source: https://github.com/Dao-AILab/flash-attention, after Press et al. 2022,
https://arxiv.org/abs/2108.12409. FlashAttention lines up the last query with the last key: pass
`q_offset=kv_len - q_len`.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..tables.alibi_slopes import Rule, slopes_of


def alibi_bidirectional(
    heads: int | None = None, *, slopes: Any = None, rule: Rule = "interleaved"
) -> fx.Mod:
    """Each head prefers near keys, before and after, by its own slope.

    Args:
        heads, slopes, rule: as in `alibi`.

    Raises:
        ArgumentError: as in `alibi`.

    alibi_bidirectional(slopes=[1.0]), of a score of 0:

        +0 -1 -2 -3
        -1 +0 -1 -2
        -2 -1 +0 -1
        -3 -2 -1 +0
    """
    slope = slopes_of(heads, slopes, rule)

    @fx.score_mod
    def alibi_bidirectional(score: float, b: int, h: int, q: int, kv: int) -> float:
        return score - slope[h] * fx.abs(q - kv)

    return alibi_bidirectional
