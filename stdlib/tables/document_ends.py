"""Where the document of each position begins and ends, from the offsets of packed documents.

    first[i] = offsets[n], stop[i] = offsets[n + 1]  where  offsets[n] <= i < offsets[n + 1]

Source: `cu_seqlens` of variable-length kernels, https://github.com/Dao-AILab/flash-attention.
"""

from __future__ import annotations

from typing import Any

from ..arguments import array_of, integer_at_least, refuse


def document_ends(offsets: Any, *, length: int | None = None) -> tuple[Any, Any]:
    """Two int32 arrays [length], `first` (inclusive) and `stop` (exclusive) of each position.

    Tensors are made of a tensor, on its device. Offsets on another device than the host are read,
    and checked, only where `length` is not given: with it, nothing waits for that device.

    Args:
        offsets: ints [documents + 1] from 0, ascending: document n is the positions `offsets[n]`
            (inclusive) to `offsets[n + 1]` (exclusive).
        length: positions; those after the last offset are one document more, of padding. The last
            offset where it is None.

    Raises:
        ArgumentError: offsets are no such array, or are more than `length`.
    """
    array = array_of("offsets", offsets, (1,), "int")
    if length is not None:
        length = integer_at_least(1, "length", length)
    is_tensor = hasattr(array, "detach")
    if length is None or not is_tensor or array.device.type == "cpu":
        length = check_offsets(array.tolist(), length)
    return _of_tensor(array, length) if is_tensor else _of_array(array, length)


def check_offsets(offsets: list[int], length: int | None = None) -> int:
    """The number of positions of offsets: `length`, or the last offset.

    Raises:
        ArgumentError: they do not ascend from 0, or are more than `length`.
    """
    last = offsets[-1]
    if offsets[0] != 0 or offsets != sorted(offsets) or (last == 0 and length is None):
        raise refuse(
            f"offsets are {offsets[:8]}, but they must ascend from 0",
            "the running sum of the documents' lengths: [0, 3, 5] for lengths 3 and 2",
        )
    if length is not None and last > length:
        raise refuse(f"offsets end at {last}, but length is {length}", f"length={last}, or more")
    return last if length is None else length


def _of_array(offsets: Any, length: int) -> tuple[Any, Any]:
    import numpy as np

    ends = np.append(offsets, length).astype(np.int32)
    after = np.searchsorted(ends, np.arange(length), side="right")
    return ends[after - 1], ends[after]


def _of_tensor(offsets: Any, length: int) -> tuple[Any, Any]:
    """The same on the device of the offsets, whatever they are; by what tensors can do."""
    ends = offsets.new_full((len(offsets) + 1,), length).int()
    ends[:-1] = offsets
    # Of each position the number of ends at or before it: documents that have begun.
    begun = ends.new_zeros(length + 1)
    begun.index_add_(0, ends.clamp(0, length).long(), ends.new_ones(len(ends)))
    after = begun.cumsum(0)[:length].clamp(1, len(ends) - 1)
    return ends[after - 1], ends[after]
