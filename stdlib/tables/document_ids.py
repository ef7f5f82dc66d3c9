"""The document of each position, from the ids themselves or from offsets.

    ids[i] = n  where  offsets[n] <= i < offsets[n + 1]

Source: `cu_seqlens` of variable-length kernels, https://github.com/Dao-AILab/flash-attention.
"""

from __future__ import annotations

from typing import Any

from ..arguments import array_of, refuse
from .document_ends import check_offsets


def document_ids(ids: Any = None, *, offsets: Any = None) -> Any:
    """An int array [length] or [batch, length], the document of each position.

    Args:
        ids: an int array or tensor of that shape, given back as it is.
        offsets: instead of ids, ints [documents + 1] from 0, ascending: document n is the positions
            `offsets[n]` (inclusive) to `offsets[n + 1]` (exclusive).

    Raises:
        ArgumentError: not exactly one of ids and offsets is given, or it is no such array.
    """
    if (ids is None) == (offsets is None):
        raise refuse(
            "documents are given by ids or by offsets, and by one of them",
            "document(ids) or document(offsets=cu_seqlens)",
        )
    if ids is not None:
        return array_of("ids", ids, (1, 2), "int")
    import numpy as np

    bounds = array_of("offsets", offsets, (1,), "int").tolist()
    check_offsets(bounds)
    return np.repeat(np.arange(len(bounds) - 1, dtype=np.int32), np.diff(bounds))
