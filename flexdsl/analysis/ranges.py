"""Minimum and maximum of a captured array over index ranges, many ranges at once.

A table is made once for each capture: nothing at all where the rows are sorted (the ends of a range
are its extremes), otherwise running extremes inside blocks and a sparse table over the blocks,
about four times the array. Answers are sound; they are exact on single elements, on few elements
of several rows, on sorted rows, and on ranges that leave one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BLOCK = 32
LOOK = 1 << 16  # elements compared at once
FEW = 8  # elements of a box that are looked at one by one
_NARROW = (np.int8, 1 << 7), (np.int16, 1 << 15), (np.int32, 1 << 31)


class RangeTable:
    """Extremes of `array` over boxes of indices (inclusive ends, cut to the array)."""

    def __init__(self, array: Array) -> None:
        array = np.atleast_1d(array)
        self.shape = array.shape
        if array.dtype == np.bool_:
            array = array.view(np.int8)
        self.rows = (
            np.ascontiguousarray(array).reshape(-1, array.shape[-1]) if array.size else array
        )

    def extremes(self, low: list[Array], high: list[Array]) -> tuple[Array, Array]:
        """Minimum and maximum, in the array's own dtype, where index d is in [low[d], high[d]].

        An array with no element has no extremes: the caller asks for none.
        """
        if not low:  # of an array without dimensions
            low = high = [np.zeros((), np.int64)]
        low, high = self._inside(low), self._inside(high)
        if len(low) == 1:
            return self._line.extremes(np.zeros((), np.int64), low[0], high[0])
        first = self._row(low[:-1])
        last = self._row(high[:-1])
        if np.array_equal(first, last):
            return self._line.extremes(first, low[-1], high[-1])
        one_row = self._line.extremes(first, low[-1], high[-1])
        many = self._row_extremes(first, last)
        same = first == last
        lows, highs = np.where(same, one_row[0], many[0]), np.where(same, one_row[1], many[1])
        few = self.are_few(low, high) & ~same
        if few.any():
            least, *others = self.members(*(lanes_of(ends, few) for ends in (low, high)))
            largest = least
            for element in others:
                least, largest = np.minimum(least, element), np.maximum(largest, element)
            lows[few], highs[few] = least, largest
        return lows, highs

    def are_few(self, low: list[Array], high: list[Array]) -> Array:
        """Has a box of indices at most FEW elements? bool, of the shape of the ends together."""
        ends = zip(self._inside(low), self._inside(high), strict=True)
        spans = [last - first + 1 for first, last in ends]
        # No product of spans may wrap around: each is cut to what is too many anyway.
        return np.asarray(prod(np.minimum(span, FEW + 1) for span in spans) <= FEW)

    def members(self, low: list[Array], high: list[Array]) -> Iterator[Array]:
        """All elements of small boxes, some twice: FEW arrays or fewer, [n] for ends [n]."""
        low, high = self._inside(low), self._inside(high)
        spans = [last - first + 1 for first, last in zip(low, high, strict=True)]
        count = np.asarray(prod(spans))
        for k in range(int(count.max(initial=1))):
            number = np.minimum(k, count - 1)
            index: list[Array] = []
            for first, span in zip(reversed(low), reversed(spans), strict=True):
                number, within = np.divmod(number, span)
                index.insert(0, first + within)
            yield self.rows[self._row(index[:-1]), index[-1]]

    def _inside(self, ends: list[Array]) -> list[Array]:
        # On few lanes np.clip takes several times as long.
        cut = zip(ends, self.shape, strict=True)
        return [np.minimum(np.maximum(x, 0), n - 1) for x, n in cut]

    def _row(self, leading: list[Array]) -> Array:
        """The number of the row at `leading` indices, in C order."""
        row: Array = np.zeros((), np.int64)
        for index, length in zip(leading, self.shape[:-1], strict=True):
            row = row * length + index
        return row

    @cached_property
    def magnitude(self) -> int:
        """No integer of the array is larger, of either sign."""
        if not self.rows.size:
            return 0
        zero, last = np.zeros((), np.int64), np.asarray(self.rows.shape[-1] - 1)
        low, high = self._line.extremes(np.arange(len(self.rows)), zero, last)
        return max(abs(int(low.min())), abs(int(high.max())))

    @cached_property
    def _line(self) -> _Line:
        return _make_line(self.rows)

    @cached_property
    def _by_row(self) -> tuple[_Line, _Line]:
        return (
            _make_line(self.rows.min(axis=1)[None, :]),
            _make_line(self.rows.max(axis=1)[None, :]),
        )

    def _row_extremes(self, first: Array, last: Array) -> tuple[Array, Array]:
        """Extremes of whole rows first..last: a superset of the box, so sound."""
        zero = np.zeros((), np.int64)
        lows, highs = self._by_row
        return lows.extremes(zero, first, last)[0], highs.extremes(zero, first, last)[1]


def lanes_of(ends: list[Array], chosen: Array) -> list[Array]:
    """The chosen lanes of arrays that broadcast against `chosen`."""
    return [np.broadcast_to(x, chosen.shape)[chosen] for x in ends]


@dataclass(frozen=True)
class _Sorted:
    """Rows that never decrease (or never increase): the ends of a range are its extremes."""

    rows: Array
    ascending: bool

    def extremes(self, row: Array, low: Array, high: Array) -> tuple[Array, Array]:
        first, last = self.rows[row, low], self.rows[row, high]
        return (first, last) if self.ascending else (last, first)


@dataclass(frozen=True)
class _Blocks:
    """Rows in any order, cut into blocks of at most BLOCK elements.

    Attributes:
        rows: [rows, length].
        size: elements of a block.
        prefix, suffix: extremes from the block's start to here, and from here to its end.
        levels: extremes of 2**k whole blocks from block j on; [k][rows, blocks].
    """

    rows: Array
    size: int
    prefix: tuple[Array, Array]
    suffix: tuple[Array, Array]
    levels: tuple[list[Array], list[Array]]

    def extremes(self, row: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """Inside one block the two running extremes bound the range from both sides."""
        ends = []
        low_block, high_block = low // self.size, high // self.size
        count = high_block - low_block - 1
        level = np.where(count > 0, np.log2(np.maximum(count, 1)).astype(np.int64), 0)
        inside = low_block == high_block
        for side, (inner, outer) in enumerate(((np.maximum, np.minimum), (np.minimum, np.maximum))):
            a, b = self.suffix[side][row, low], self.prefix[side][row, high]
            extreme = np.where(inside, inner(a, b), outer(a, b))
            extreme = np.where(low == high, self.rows[row, low], extreme)
            if np.any(count > 0):
                middle = self._blocks(side, row, low_block + 1, high_block, level, outer)
                extreme = np.where(count > 0, outer(extreme, middle), extreme)
            ends.append(extreme)
        return ends[0], ends[1]

    def _blocks(
        self, side: int, row: Array, first: Array, stop: Array, level: Array, outer: Any
    ) -> Array:
        """Extreme of whole blocks [first, stop), by two runs of 2**level that overlap."""
        row, first, stop, level = np.broadcast_arrays(row, first, stop, level)
        result = np.zeros(row.shape, self.rows.dtype)
        for k in np.unique(level):
            at = level == k
            table = self.levels[side][int(k)]
            left = np.clip(first[at], 0, table.shape[1] - 1)
            right = np.clip(stop[at] - (1 << int(k)), 0, table.shape[1] - 1)
            result[at] = outer(table[row[at], left], table[row[at], right])
        return result


_Line = _Sorted | _Blocks


def _make_line(rows: Array) -> _Line:
    if _is_sorted(rows, np.greater_equal):
        return _Sorted(rows, True)
    if _is_sorted(rows, np.less_equal):
        return _Sorted(rows, False)
    count, length = rows.shape
    size = min(BLOCK, length)
    rows = narrowed(rows)
    padded = np.pad(rows, ((0, 0), (0, -length % size)), mode="edge")
    blocks = padded.reshape(count, -1, size)
    functions = (np.minimum, np.maximum)
    prefix = [f.accumulate(blocks, axis=2).reshape(count, -1) for f in functions]
    suffix = [
        f.accumulate(blocks[:, :, ::-1], axis=2)[:, :, ::-1].reshape(count, -1) for f in functions
    ]
    levels = [_sparse(f.reduce(blocks, axis=2), f) for f in functions]
    ends = (prefix[0], prefix[1]), (suffix[0], suffix[1]), (levels[0], levels[1])
    return _Blocks(rows, size, *ends)


def narrowed(array: Array) -> Array:
    """The same integers in as few bits as hold them all."""
    if array.dtype.kind == "f":
        return array
    least, largest = int(array.min()), int(array.max())
    for dtype, limit in _NARROW:
        if -limit <= least and largest < limit:
            return array.astype(dtype, copy=False)
    return array


def _is_sorted(rows: Array, compare: Any) -> bool:
    """Does each element compare so with the one before? Without an array as long as the rows."""
    count, length = rows.shape
    step = max(1, LOOK // max(count, 1))
    return all(
        bool(compare(rows[:, k + 1 : k + 1 + step], rows[:, k : min(k + step, length - 1)]).all())
        for k in range(0, length - 1, step)
    )


def _sparse(blocks: Array, function: Any) -> list[Array]:
    """Extremes of 1, 2, 4, ... neighbours from each position on."""
    levels = [blocks]
    step = 1
    while 2 * step <= blocks.shape[1]:
        last = levels[-1]
        levels.append(function(last[:, :-step], last[:, step:]))
        step *= 2
    return levels
