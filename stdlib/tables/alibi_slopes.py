"""The slopes of ALiBi's heads, by the paper's code or by one geometric series.

    2 ** (-8 * (h + 1) / heads)   for a power of two, and for every number by rule "geometric"

Source: Press et al. 2022, https://arxiv.org/abs/2108.12409, and its code. Other code bases differ
for numbers of heads that are no power of two: attention-gym and FlashBias have "geometric".
"""

from __future__ import annotations

import math
from typing import Any, Literal

from ..arguments import array_of, integer_at_least, one_of, refuse

Rule = Literal["interleaved", "geometric"]


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
    one_of("rule", rule, ("interleaved", "geometric"))
    power = 2 ** int(math.log2(heads))
    if rule == "geometric" or power == heads:
        return _geometric(heads).astype(np.float32)
    slopes = np.concatenate([_geometric(power), _geometric(2 * power)[::2][: heads - power]])
    return slopes.astype(np.float32)


def slopes_of(heads: int | None, slopes: Any, rule: Rule) -> Any:
    """The slopes that a variant is given, or those of its number of heads.

    Raises:
        ArgumentError: not exactly one of heads and slopes is given, or it is of a wrong kind.
    """
    if (heads is None) == (slopes is None):
        raise refuse(
            "ALiBi takes a number of heads or slopes, and one of them",
            "alibi(8) or alibi(slopes=tensor)",
        )
    if heads is not None:
        return alibi_slopes(heads, rule)
    return array_of("slopes", slopes, (1,), "float")


def _geometric(heads: int) -> Any:
    import numpy as np

    return 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)
