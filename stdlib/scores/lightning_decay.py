"""Lightning attention's decay: a score shrinks exponentially with the distance.

    score * exp(-slopes[h] * (q - kv)) for kv <= q, else 0

Source: Qin et al. 2024, "Lightning Attention-2", https://arxiv.org/abs/2401.04658. It is linear
attention, without a softmax and without 1/sqrt(head dim): this is its decay on the scores of one.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..tables.alibi_slopes import Rule, slopes_of


def lightning_decay(
    heads: int | None = None, *, slopes: Any = None, rule: Rule = "interleaved"
) -> fx.Mod:
    """The score of a key, less the farther back it is. Use it with a causal mask.

    Args:
        heads, slopes, rule: as in `alibi`.

    Raises:
        ArgumentError: as in `alibi`.

    lightning_decay(slopes=[0.69315]), of a score of 8:

        8 0 0 0
        4 8 0 0
        2 4 8 0
        1 2 4 8
    """
    slope = slopes_of(heads, slopes, rule)

    @fx.score_mod
    def lightning_decay(score: float, b: int, h: int, q: int, kv: int) -> float:
        back = fx.maximum(q - kv, 0)
        return score * fx.where(q >= kv, fx.exp(-slope[h] * back), 0.0)

    return lightning_decay
