"""Sets of the elements of a captured tensor over ranges of indices, for a planning kernel.

Documents in random order have ranges of ids that overlap nearly everywhere, but few ids in common.
A set is WORDS numbers of 64 bits, each by a hash of its own: bit n of one is set if some element
has its hash n (Bloom, Space/time trade-offs in hash coding, 1970). Two sets with a common element
have a common bit in every word. Two of three elements each that have none have a common bit in one
word of 8, and in all four only once in 3000.

The runtime makes the set of each block of ELEMENTS, and of runs of 2, 4, ... blocks from each block
on; a range is covered by two runs that overlap, and what they hold beside it does no harm. Of a
longer range nothing is known: all bits are set. A hash is the top of a product (Knuth, The Art of
Computer Programming, volume 3, section 6.4) with 2**32 / x**n, n from 1 on, where x**5 == x + 1:
multiples of these spread evenly in all words together, as numbers of documents are to.
"""

from __future__ import annotations

from .extremes import ELEMENTS, LEVELS

BITS = 64  # of a word
FACTORS = (3679390609, 3152041523, 2700274805, 2313257605)
WORDS = len(FACTORS)
_WORDS_OF_RANGE = ",\n        ".join(
    f"tl.load(one + {word}) | tl.load(other + {word})" for word in range(WORDS)
)

RANGE_MEMBERS = f'''\
@triton.jit
def range_members(members, row, first, last, rows, length):
    """A set with each element [first, last] of a row: its words."""
    blocks = tl.cdiv(length, {ELEMENTS})
    first = first.to(tl.int32) // {ELEMENTS}
    last = last.to(tl.int32) // {ELEMENTS}
    # The exponent of a float: the largest power of two that is no more than the count.
    count = (last - first + 1).to(tl.float32).to(tl.int32, bitcast=True)
    level = tl.minimum((count >> 23) - 127, {LEVELS})
    second = tl.maximum(last + 1 - (1 << level), 0)
    at = members + (level.to(tl.int64) * rows + row) * blocks * {WORDS}
    one = at + first * {WORDS}
    other = at + second * {WORDS}
    return (
        {_WORDS_OF_RANGE}
    )
'''
