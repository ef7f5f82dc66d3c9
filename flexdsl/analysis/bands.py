"""Bands of positions, `least <= q - kv < most`, and how many pairs of a rectangle are in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.affine import LinearForms
from flexdsl.ir import Expr, Op, Type, apply, var

Array = NDArray[Any]
NONE = 2**40  # beyond any difference of positions


@dataclass(frozen=True, slots=True)
class Band:
    """The pairs with least <= q - kv < most."""

    least: int = -NONE
    most: int = NONE

    def __and__(self, other: Band) -> Band:
        return Band(max(self.least, other.least), min(self.most, other.most))

    def pairs(self, row: Array, height: Array, key: Array, width: Array) -> Array:
        """How many pairs of rectangles are in the band: int64 [n].

        Args:
            row, key: positions of the first query and of the first key.
            height, width: numbers of queries and of keys, 1 to 2**20.
        """
        first = np.subtract(row, key, dtype=np.int64)
        above = _pairs_from(first - self.least, height, width)
        if self.most >= NONE:
            return above
        return above - _pairs_from(first - max(self.most, self.least), height, width)


def band_of(part: Expr) -> Band | None:
    """The band of a comparison of positions whose parameters are numbers; None for all else."""
    if part.op not in (Op.LT, Op.LE, Op.GT, Op.GE) or part.args[0].type is not Type.INDEX:
        return None
    form = LinearForms().of(apply(Op.SUB, *part.args))
    q, kv = (form.coefficient(var(name)) for name in ("q", "kv"))
    if len(form.terms) != 2 or (q, kv) not in ((1, -1), (-1, 1)) or abs(form.constant) >= NONE:
        return None
    # (q - kv) * q + constant, compared with 0.
    at_least, strict = part.op in (Op.GT, Op.GE), part.op in (Op.GT, Op.LT)
    if at_least == (q == 1):
        return Band(least=-q * form.constant + strict)
    return Band(most=-q * form.constant + (not strict))


def _pairs_from(first: Array, height: Array, width: Array) -> Array:
    """How many pairs (i, j) of [0, height) x [0, width) have first + i - j >= 0.

    Row i has as many as first + i + 1, at least 0 and at most the width.
    """
    pairs = _summed(first + height, width)
    pairs -= _summed(first, width)
    return pairs


def _summed(last: Array, width: Array) -> Array:
    """The sum of min(t, width) over the numbers t from 1 to `last`; 0 where there is none."""
    part = np.minimum(np.maximum(last, 0), width)
    total: Array = part * (part + 1)
    total //= 2
    full = np.maximum(last - width, 0)
    full *= width
    total += full
    return total
