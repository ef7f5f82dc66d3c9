"""Packed documents: several sequences in one row, none of which sees another.

    document         ids[q] == ids[kv]  [and within(q - start(q), kv - start(kv))]
    document_causal  ids[q] == ids[kv] and kv <= q

Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination",
https://arxiv.org/abs/2107.02027. Documents may be given by the id of each position or by the
offsets that variable-length kernels take (`cu_seqlens`). Give padding an id of its own.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from .arguments import array_of


def document(ids: Any = None, *, offsets: Any = None, within: fx.Mod | None = None) -> fx.Mod:
    """A query sees the keys of its own document.

    Args:
        ids: int array or tensor [length], or [batch, length], the document of each position; equal
            ids are one document wherever they stand.
        offsets: instead of ids, ints [documents + 1] from 0, ascending: document n is the positions
            `offsets[n]` (inclusive) to `offsets[n + 1]` (exclusive).
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
    doc = _document_ids(ids, offsets)
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
    doc = _document_ids(ids, offsets)
    if len(doc.shape) == 2:

        @fx.mask_mod
        def document_causal(b: int, h: int, q: int, kv: int) -> bool:
            return q >= kv and doc[b, q] == doc[b, kv]

    else:

        @fx.mask_mod
        def document_causal(b: int, h: int, q: int, kv: int) -> bool:
            return q >= kv and doc[q] == doc[kv]

    return document_causal


def _document_within(doc: Any, within: fx.Mod) -> fx.Mod:
    import numpy as np

    if len(doc.shape) != 1:
        raise fx.errors.ArgumentError(
            "within= needs one-dimensional ids",
            fix="ids of shape [length], for all batches",
        )
    host = doc.cpu().numpy() if hasattr(doc, "cpu") else doc
    _, first, inverse = np.unique(host, return_index=True, return_inverse=True)
    start = first[inverse].astype(np.int32)

    @fx.mask_mod
    def document(b: int, h: int, q: int, kv: int) -> bool:
        return doc[q] == doc[kv] and within(b, h, q - start[q], kv - start[kv])

    return document


def _document_ids(ids: Any, offsets: Any) -> Any:
    if (ids is None) == (offsets is None):
        raise fx.errors.ArgumentError(
            "documents are given by ids or by offsets, and by one of them",
            fix="document(ids) or document(offsets=cu_seqlens)",
        )
    if ids is not None:
        return array_of("ids", ids, (1, 2), "int")
    import numpy as np

    bounds = np.asarray(array_of("offsets", offsets, (1,), "int").tolist())
    lengths = np.diff(bounds)
    if bounds[0] != 0 or bounds[-1] == 0 or (lengths < 0).any():
        raise fx.errors.ArgumentError(
            f"offsets are {bounds.tolist()[:8]}, but they must ascend from 0",
            fix="the running sum of the documents' lengths: [0, 3, 5] for lengths 3 and 2",
        )
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
