"""A mask or a score modification, asked about tokens that stand in another order.

It knows nothing of grids: the order is two functions of a place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flexdsl as fx


def reordered(
    mod: fx.Mod, original: Callable[[Any], Any], has_token: Callable[[Any], Any]
) -> fx.Mod:
    """`mod` at the original indices of the tokens; a mask excludes keys without a token."""
    if mod.kind.value == "score":

        @fx.score_mod
        def score_in_order(score: float, b: int, h: int, q: int, kv: int) -> float:
            return mod(score, b, h, original(q), original(kv))

        return score_in_order

    @fx.mask_mod
    def mask_in_order(b: int, h: int, q: int, kv: int) -> bool:
        return has_token(kv) and mod(b, h, original(q), original(kv))

    return mask_in_order
