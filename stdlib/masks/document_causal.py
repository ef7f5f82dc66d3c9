"""Packed documents of a causal model: no document sees another, no token a later one.

    ids[q] == ids[kv] and kv <= q

Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination",
https://arxiv.org/abs/2107.02027. It is `document(ids) & causal()` under one name.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..tables.document_ids import document_ids


def document_causal(ids: Any = None, *, offsets: Any = None) -> fx.Mod:
    """A query sees the keys of its own document up to its own position.

    Args:
        ids, offsets: as in `document`.

    Raises:
        ArgumentError: as in `document`.

    document_causal(offsets=[0, 3, 5, 8]), queries down, keys across:

        # . . . . . . .
        # # . . . . . .
        # # # . . . . .
        . . . # . . . .
        . . . # # . . .
        . . . . . # . .
        . . . . . # # .
        . . . . . # # #
    """
    doc = document_ids(ids, offsets=offsets)
    if len(doc.shape) == 2:

        @fx.mask_mod
        def document_causal(b: int, h: int, q: int, kv: int) -> bool:
            return q >= kv and doc[b, q] == doc[b, kv]

    else:

        @fx.mask_mod
        def document_causal(b: int, h: int, q: int, kv: int) -> bool:
            return q >= kv and doc[q] == doc[kv]

    return document_causal
