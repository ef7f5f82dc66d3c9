"""Causal attention: no query sees a later key.

    kv <= q

Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.3. The first query lines
up with the first key, as in FlexAttention and torch's `is_causal`; see `causal_bottom_right`.
"""

from __future__ import annotations

import flexdsl as fx


def causal() -> fx.Mod:
    """Each query sees the keys at its own position and before.

    causal(), queries down, keys across:

        # . . . . .
        # # . . . .
        # # # . . .
        # # # # . .
        # # # # # .
        # # # # # #
    """

    @fx.mask_mod
    def causal(b: int, h: int, q: int, kv: int) -> bool:
        return q >= kv

    return causal
