"""Packed documents of a causal model: no document sees another, no token a later one.

    ids[q] == ids[kv] and kv <= q  or  first[q] <= kv <= q

Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination",
https://arxiv.org/abs/2107.02027. It is `document(ids) & causal()` under one name;
by offsets a row loads no more than where its document begins.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import refuse
from ..tables.document_ends import document_ends
from ..tables.document_ids import document_ids


def document_causal(ids: Any = None, *, offsets: Any = None, length: int | None = None) -> fx.Mod:
    """A query sees the keys of its own document up to its own position.

    Args:
        ids, offsets, length: as in `document`.

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
    if ids is None and offsets is not None:
        first, _ = document_ends(offsets, length=length)

        @fx.mask_mod
        def document_causal(b: int, h: int, q: int, kv: int) -> bool:
            return first[q] <= kv and kv <= q

        return document_causal
    doc = document_ids(ids, offsets=offsets)
    if length is not None:
        raise refuse("length= is for documents by offsets", "ids of as many positions")
    if len(doc.shape) == 2:

        @fx.mask_mod
        def document_causal(b: int, h: int, q: int, kv: int) -> bool:
            return q >= kv and doc[b, q] == doc[b, kv]

    else:

        @fx.mask_mod
        def document_causal(b: int, h: int, q: int, kv: int) -> bool:
            return q >= kv and doc[q] == doc[kv]

    return document_causal
