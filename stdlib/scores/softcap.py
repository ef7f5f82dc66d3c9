"""Softcap: scores squeezed into (-cap, cap), so that none runs away.

    cap * tanh(score / cap)

Source: Gemma Team 2024, "Gemma 2: Improving Open Language Models at a Practical Size",
https://arxiv.org/abs/2408.00118, section 2, after Bello et al. 2016. It comes after the scale and
before any bias; near 0 it changes nothing.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import positive_number


def softcap(cap: float) -> fx.Mod:
    """The score, bent so that its absolute value stays below `cap`.

    Args:
        cap: bound of the score, positive; Gemma 2 uses 50.

    Raises:
        ArgumentError: the cap is not a positive finite number.

    softcap(10.0), of the scores -40 -10 -5 0 5 10 40:

        -9.99 -7.62 -4.62 +0.00 +4.62 +7.62 +9.99
    """
    cap = positive_number("cap", cap, "50.0")

    @fx.score_mod
    def softcap(score: float, b: int, h: int, q: int, kv: int) -> float:
        return cap * fx.tanh(score / cap)

    return softcap
