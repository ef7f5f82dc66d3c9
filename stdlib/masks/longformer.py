"""Longformer: a band to both sides, dilated if wished, and a few global tokens.

    abs(q - kv) <= one_sided * dilation and (q - kv) % dilation == 0  [and kv <= q]
    or kv or q is a global token

Source: Beltagy et al. 2020, "Longformer: The Long-Document Transformer",
https://arxiv.org/abs/2004.05150. At the borders a window has fewer keys. In the paper's code the
rows of global tokens have projections of their own: run those rows as a second call.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, integer_at_least


def longformer(
    one_sided: int, *, dilation: int = 1, causal: bool = False, global_tokens: Any = None
) -> fx.Mod:
    """Each query sees `one_sided` keys to each side, and itself.

    Args:
        one_sided: keys of a side, without the own one.
        dilation: positions from one key to the next.
        causal: no later keys.
        global_tokens: bool array or tensor [length]: these tokens see all and are seen by all.

    Raises:
        ArgumentError: a width is not an integer, or too small, or global_tokens no such array.

    longformer(2, global_tokens=[True] + [False] * 8), queries down, keys across:

        # # # # # # # # #
        # # # # . . . . .
        # # # # # . . . .
        # # # # # # . . .
        # . # # # # # . .
        # . . # # # # # .
        # . . . # # # # #
        # . . . . # # # #
        # . . . . . # # #
    """
    dilation = integer_at_least(1, "dilation", dilation)
    reach = integer_at_least(0, "one_sided", one_sided) * dilation
    causal = bool(causal)

    @fx.mask_mod
    def longformer(b: int, h: int, q: int, kv: int) -> bool:
        near = fx.abs(q - kv) <= reach and (q - kv) % dilation == 0
        return near and q >= kv if causal else near

    if global_tokens is None:
        return longformer
    is_global = array_of("global_tokens", global_tokens, (1,), "bool")
    band = longformer

    @fx.mask_mod
    def longformer_global(b: int, h: int, q: int, kv: int) -> bool:
        return is_global[q] or is_global[kv] or band(b, h, q, kv)

    return longformer_global
