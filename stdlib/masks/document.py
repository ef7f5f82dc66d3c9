"""Packed documents: several sequences in one row, none of which sees another.

    ids[q] == ids[kv]  or  first[q] <= kv < stop[q]
    [and within(q - first(q), kv - first(q))]

Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination",
https://arxiv.org/abs/2107.02027. Documents may be given by the id of each position or by the
offsets that variable-length kernels take (`cu_seqlens`). By offsets no key is loaded and no table
is made: each row knows the two ends of its document. Give padding an id of its own.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import host_array, refuse
from ..tables.document_ends import document_ends
from ..tables.document_ids import document_ids


def document(
    ids: Any = None,
    *,
    offsets: Any = None,
    length: int | None = None,
    within: fx.Mod | None = None,
) -> fx.Mod:
    """A query sees the keys of its own document.

    Args:
        ids: int array or tensor [length], or [batch, length], the document of each position; equal
            ids are one document wherever they stand.
        offsets: instead of ids, ints [documents + 1] from 0, ascending: document n is the positions
            `offsets[n]` (inclusive) to `offsets[n + 1]` (exclusive). Their device is kept.
        length: with offsets, the number of positions; those after the last offset are one document
            more. Without it the last offset is read, for which the host waits if it is on a GPU.
        within: a mask inside a document, given positions that count from the document's first one.
            Takes documents of one length only, without a batch.

    Raises:
        ArgumentError: not exactly one of ids and offsets is given, or it is no such array.

    document([0, 0, 0, 1, 1, 2, 2, 2]), queries down, keys across:

        # # # . . . . .
        # # # . . . . .
        # # # . . . . .
        . . . # # . . .
        . . . # # . . .
        . . . . . # # #
        . . . . . # # #
        . . . . . # # #
    """
    if ids is None and offsets is not None:
        return _document_between(*document_ends(offsets, length=length), within)
    doc = document_ids(ids, offsets=offsets)
    if length is not None:
        raise refuse("length= is for documents by offsets", "ids of as many positions")
    if within is not None:
        return _document_within(doc, within)
    if len(doc.shape) == 2:

        @fx.mask_mod
        def document(b: int, h: int, q: int, kv: int) -> bool:
            return doc[b, q] == doc[b, kv]

    else:

        @fx.mask_mod
        def document(b: int, h: int, q: int, kv: int) -> bool:
            return doc[q] == doc[kv]

    return document


def _document_between(first: Any, stop: Any, within: fx.Mod | None) -> fx.Mod:
    # Each row has its own position, whatever the tensors come to hold: a form for any contents.
    @fx.mask_mod
    def document(b: int, h: int, q: int, kv: int) -> bool:
        inside = fx.minimum(first[q], q) <= kv and kv < fx.maximum(stop[q], q + 1)
        return inside and (within is None or within(b, h, q - first[q], kv - first[q]))

    return document


def _document_within(doc: Any, within: fx.Mod) -> fx.Mod:
    import numpy as np

    if len(doc.shape) != 1:
        raise refuse("within= needs one-dimensional ids", "ids of shape [length], for all batches")
    _, first, inverse = np.unique(host_array(doc), return_index=True, return_inverse=True)
    start = first[inverse].astype(np.int32)

    @fx.mask_mod
    def document(b: int, h: int, q: int, kv: int) -> bool:
        return doc[q] == doc[kv] and within(b, h, q - start[q], kv - start[kv])

    return document
