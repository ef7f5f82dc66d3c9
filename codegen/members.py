"""Sets of the elements of a captured tensor over ranges of indices, for a planning kernel.

Documents in random order have ranges of ids that overlap nearly everywhere, but few ids in common.
A set is one int64: bit n is set if some element has the hash n, so that two sets without a common
bit have no common element. The runtime makes the set of each block of ELEMENTS, and of runs of 2,
4, ... blocks from each block on; a range is covered by two runs that overlap, and what they hold
beside it does no harm. Of a longer range nothing is known: all bits are set. The hash is the top
of a product with 2**32 / 1.618 (Knuth, The Art of Computer Programming, volume 3, section 6.4).
"""

from __future__ import annotations

from .extremes import ELEMENTS, LEVELS

BITS = 64
FACTOR = 2654435769

RANGE_MEMBERS = f'''\
@triton.jit
def range_members(members, row, first, last, rows, length):
    """A set with the hash of each element [first, last] of a row."""
    blocks = tl.cdiv(length, {ELEMENTS})
    first = first // {ELEMENTS}
    last = last // {ELEMENTS}
    # The exponent of a float: the largest power of two that is no more than the count.
    count = (last - first + 1).to(tl.float32).to(tl.int32, bitcast=True)
    level = tl.minimum((count >> 23) - 127, {LEVELS})
    second = tl.maximum(last + 1 - (1 << level), 0)
    at = members + (level.to(tl.int64) * rows + row) * blocks
    return tl.load(at + first) | tl.load(at + second)
'''
