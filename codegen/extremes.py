"""Extremes of a captured tensor over boxes of indices, as a planning kernel reads them.

A tensor is rows along its last dimension. Up to FEW elements of up to ROWS rows are looked at one
by one, which is exact. For longer ranges the runtime summarises each row: the least element of each
block of elements, of 2, 4, ... blocks from each block on, and of the whole row; likewise of the
complements (~x, -x of floats), so that both are minima. Such a range is covered by two runs of
blocks that overlap: elements beside it may count too, which is sound, and exact for whole blocks.
NaN is infinite on both sides. Which boxes are read is for `intervals.py`.
"""

from __future__ import annotations

ELEMENTS = 16  # of a block
LEVELS = 7  # of runs of 1, 2, 4, ... blocks; a longer range is the whole row
ROWS = 8  # most rows of a box; more are the whole tensor
FEW = 8

BOX_EXTREMES = f'''\
@triton.jit
def complement(x):
    """A number that is the smaller, the larger x is."""
    return -x if x.dtype.is_floating() else ~x


@triton.jit
def both_sides(pointer):
    """An element and its complement."""
    value = tl.load(pointer)
    other = complement(value)
    if value.dtype.is_floating():
        known = value == value
        value = tl.where(known, value, float("-inf"))
        other = tl.where(known, other, float("-inf"))
    return value, other


@triton.jit
def block_extremes(extremes, row, first, last, rows, length):
    """Least of the blocks of elements [first, last] of a row, and of their complements."""
    blocks = tl.cdiv(length, {ELEMENTS})
    first = first // {ELEMENTS}
    last = last // {ELEMENTS}
    # The exponent of a float: the largest power of two that is no more than the count.
    count = (last - first + 1).to(tl.float32).to(tl.int32, bitcast=True)
    level = tl.minimum((count >> 23) - 127, {LEVELS})
    second = tl.maximum(last + 1 - (1 << level), 0)
    at = extremes + (level.to(tl.int64) * 2 * rows + row) * blocks
    least = tl.minimum(tl.load(at + first), tl.load(at + second))
    at += rows.to(tl.int64) * blocks
    return least, tl.minimum(tl.load(at + first), tl.load(at + second))


@triton.jit
def box_extremes(elements, extremes, row, last_row, first, last, rows, length):
    """Least and greatest of elements [first, last] of rows [row, last_row]; all of one shape."""
    first, last = first.to(tl.int32), last.to(tl.int32)
    few = last - first < {FEW}
    reach = tl.max(tl.where(few, last - first, 0))
    some_are_many = tl.max(tl.where(few, 0, 1)) > 0
    least, most = both_sides(elements + row * length + first)
    for step in range(0, tl.minimum(tl.max(last_row - row), {ROWS - 1}) + 1):
        this_row = tl.minimum(row + step, last_row)
        for at in range(0, reach + 1):
            place = this_row * length + tl.minimum(first + at, last)
            value, other = both_sides(elements + place)
            least, most = tl.minimum(least, value), tl.minimum(most, other)
        if some_are_many:
            value, other = block_extremes(extremes, this_row, first, last, rows, length)
            least = tl.where(few, least, tl.minimum(least, value))
            most = tl.where(few, most, tl.minimum(most, other))
    many_rows = last_row - row >= {ROWS}
    whole = extremes + {LEVELS + 1} * 2 * rows.to(tl.int64) * tl.cdiv(length, {ELEMENTS})
    least = tl.where(many_rows, tl.load(whole), least)
    most = tl.where(many_rows, tl.load(whole + 1), most)
    return least, complement(most)
'''
