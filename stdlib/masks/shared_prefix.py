"""Shared prefix: packed causal documents, some of which continue another one.

    start[d] <= kv <= q  or  d != p and start[p] <= kv < end[p]
    with d = document of q, p = prefix_of[d]

Source: https://github.com/meta-pytorch/attention-gym, attn_gym/masks/shared_prefix.py. Several
answers to one prompt: the prompt is stored once.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import integers_at_least, refuse


def shared_prefix(lengths: Any, prefix_of: Any) -> fx.Mod:
    """A query sees its own document up to itself, and all of the document that it continues.

    Args:
        lengths: number of tokens of each document, which stand one after the other.
        prefix_of: for each document the number of the one that it continues; its own for none.

    Raises:
        ArgumentError: the two are not of one length, or a document's prefix comes after it.

    shared_prefix([3, 2, 2, 2, 1], [0, 0, 0, 3, 3]), queries down, keys across:

        # . . . . . . . . .
        # # . . . . . . . .
        # # # . . . . . . .
        # # # # . . . . . .
        # # # # # . . . . .
        # # # . . # . . . .
        # # # . . # # . . .
        . . . . . . . # . .
        . . . . . . . # # .
        . . . . . . . # # #
    """
    import numpy as np

    sizes = np.array(integers_at_least(1, "lengths", lengths))
    prefix = np.array(integers_at_least(0, "prefix_of", prefix_of, len(sizes)))
    if (prefix > np.arange(len(sizes))).any():
        raise refuse(f"prefix_of is {prefix.tolist()}, but a prefix must not come after its user")
    starts = np.cumsum(sizes) - sizes
    shares = prefix != np.arange(len(sizes))
    start, prefix_start, prefix_end = (
        np.repeat(of_document, sizes).astype(np.int32)
        for of_document in (starts, starts[prefix], starts[prefix] + sizes[prefix] * shares)
    )

    @fx.mask_mod
    def shared_prefix(b: int, h: int, q: int, kv: int) -> bool:
        own = start[q] <= kv and kv <= q
        return own or (prefix_start[q] <= kv and kv < prefix_end[q])

    return shared_prefix
