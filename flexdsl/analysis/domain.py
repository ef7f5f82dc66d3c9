"""Abstract values: what is known of an expression on each of many boxes at once.

Arrays have one lane for each box, or broadcast against such. An interval is inclusive at both ends.
Index bounds are int64 and sound: a value that may leave +-LIMIT has an unbounded interval, so no
sum or product here ever wraps around. Nothing here knows of operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LIMIT = 2**62  # stands for "no bound" of an index
HALF = 2**61  # magnitudes from here on become unbounded


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers in [lo, hi].

    Attributes:
        lo, hi: int64 of an index, float64 of a float.
        magnitude: of an index: no |value| is larger; LIMIT where a lane may be unbounded.
        nan: of a float: the value may be NaN, which is in no interval.
    """

    lo: Array
    hi: Array
    magnitude: int = 0
    nan: Array | np.bool_ = np.False_

    @property
    def is_index(self) -> bool:
        """Is this the interval of an index, not of a float?"""
        return bool(self.lo.dtype.kind == "i")

    def join(self, other: Interval) -> Interval:
        """The smallest interval around both."""
        return Interval(
            np.minimum(self.lo, other.lo),
            np.maximum(self.hi, other.hi),
            max(self.magnitude, other.magnitude),
            self.nan | other.nan,
        )


@dataclass(frozen=True, slots=True)
class Truth:
    """Is a condition true on a box? NEVER: not possible; ALWAYS: always; MAYBE: neither known."""

    always: Array
    possible: Array

    @property
    def maybe(self) -> Array:
        """Lanes that are not decided."""
        return np.asarray(self.possible & ~self.always)

    def negated(self) -> Truth:
        """The truth of the negation."""
        return Truth(~self.possible, ~self.always)

    def both(self, other: Truth) -> Truth:
        """The truth of the conjunction."""
        return Truth(self.always & other.always, self.possible & other.possible)

    def either(self, other: Truth) -> Truth:
        """The truth of the disjunction."""
        return Truth(self.always | other.always, self.possible | other.possible)


Value = Interval | Truth


def index_interval(lo: Array | int, hi: Array | int, magnitude: int) -> Interval:
    """An interval of indices whose bounds are exact and within +-magnitude."""
    if magnitude >= HALF:
        return UNBOUNDED
    return Interval(np.asarray(lo, np.int64), np.asarray(hi, np.int64), magnitude)


UNBOUNDED = Interval(np.asarray(-LIMIT, np.int64), np.asarray(LIMIT, np.int64), LIMIT)
TRUE = Truth(np.True_, np.True_)  # type: ignore[arg-type]
FALSE = Truth(np.False_, np.False_)  # type: ignore[arg-type]
