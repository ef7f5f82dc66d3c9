"""ALiBi: attention with linear biases, a penalty that grows with the distance.

    alibi                score + slopes[h] * (kv - q)
    alibi_bidirectional  score - slopes[h] * abs(q - kv)

Source: Press et al. 2022, "Train Short, Test Long: Attention with Linear Biases Enables Input
Length Extrapolation", https://arxiv.org/abs/2108.12409; the second form is FlashAttention's for
attention that is not causal. The score comes already scaled by 1/sqrt(head dim).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import flexdsl as fx

from .arguments import array_of, integer_at_least

Rule = Literal["interleaved", "geometric"]


def alibi(heads: int | None = None, *, slopes: Any = None, rule: Rule = "interleaved") -> fx.Mod:
    """Each head prefers near keys, by its own slope. Use it with a causal mask.

    Args:
        heads: number of query heads, whose slopes are `alibi_slopes(heads, rule)`.
        slopes: instead of heads, a float array or tensor [heads], learned ones for example.
        rule: as in `alibi_slopes`.

    Raises:
        ArgumentError: not exactly one of heads and slopes is given, or it is of a wrong kind.

    alibi(slopes=[1.0]), added to a score of 0, queries down, keys across:

        +0 +1 +2 +3
        -1 +0 +1 +2
        -2 -1 +0 +1
        -3 -2 -1 +0
    """
    slope = _slopes(heads, slopes, rule)

    @fx.score_mod
    def alibi(score: float, b: int, h: int, q: int, kv: int) -> float:
        return score + slope[h] * (kv - q)

    return alibi


def alibi_bidirectional(
    heads: int | None = None, *, slopes: Any = None, rule: Rule = "interleaved"
) -> fx.Mod:
    """The penalty is of the distance to either side.

    Args:
        heads, slopes, rule: as in `alibi`.

    Raises:
        ArgumentError: as in `alibi`.

    alibi_bidirectional(slopes=[1.0]), added to a score of 0, queries down, keys across:

        +0 -1 -2 -3
        -1 +0 -1 -2
        -2 -1 +0 -1
        -3 -2 -1 +0
    """
    slope = _slopes(heads, slopes, rule)

    @fx.score_mod
    def alibi_bidirectional(score: float, b: int, h: int, q: int, kv: int) -> float:
        return score - slope[h] * fx.abs(q - kv)

    return alibi_bidirectional


def alibi_slopes(heads: int, rule: Rule = "interleaved") -> Any:
    """The slopes of `heads` heads, a numpy float32 array [heads].

    Args:
        heads: number of query heads.
        rule: "geometric" is 2 ** (-8 * (h + 1) / heads) for every number of heads. "interleaved",
            the paper's code, is the same for a power of two; else the slopes of the next lower
            power of two, and then every other one of twice as many.

    Raises:
        ArgumentError: heads is not an integer of at least 1, or there is no such rule.
    """
    import numpy as np

    heads = integer_at_least(1, "heads", heads)
    if rule not in ("interleaved", "geometric"):
        raise fx.errors.ArgumentError(
            f"there is no rule {rule!r}", fix='rule="interleaved" or rule="geometric"'
        )
    power = 2 ** int(math.log2(heads))
    if rule == "geometric" or power == heads:
        return _geometric(heads).astype(np.float32)
    slopes = np.concatenate([_geometric(power), _geometric(2 * power)[::2][: heads - power]])
    return slopes.astype(np.float32)


def _geometric(heads: int) -> Any:
    import numpy as np

    return 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)


def _slopes(heads: int | None, slopes: Any, rule: Rule) -> Any:
    if (heads is None) == (slopes is None):
        raise fx.errors.ArgumentError(
            "ALiBi takes a number of heads or slopes, and one of them",
            fix="alibi(8) or alibi(slopes=tensor)",
        )
    if heads is not None:
        return alibi_slopes(heads, rule)
    return array_of("slopes", slopes, (1,), "float")
