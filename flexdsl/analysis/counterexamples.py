"""Conditions that are false at one of a few points: no proof of them is worth an attempt.

Most of what a prover is asked is false, and a point says so for a tenth of the work of intervals.
Points are the same in every run: the ends of the ranges, some numbers between them, and small and
large numbers of either sign for what is loaded or has no range. Nothing is proven here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.ir import Expr, Op, Type, const
from flexdsl.ir.evaluate import DTYPES, NUMPY

Array = NDArray[Any]

# Where a variable is between its ends, in sixteenths.
_PLACES = 0, 16, 0, 16, 1, 15, 2, 14, 3, 13, 5, 11, 6, 10, 7, 9
# What is loaded: numbers that each load has in another order, and some that all have at once.
_NUMBERS = np.array([1, -3, 0, 7, 100, -100, 1 << 20, -(1 << 20), 2, 5000, -1, 1 << 16])
_SHARED = np.array([1, 0, -5, 64])
_STEP = 5  # from a load's numbers to those of the next: prime to how many there are

Range = tuple[str, int, int]  # a variable or parameter, its least and its largest value


def _places_of(ranges: Iterable[Range]) -> dict[str, Array]:
    # In Python's integers: the range of a parameter may be all of 64 bits.
    return {name: np.array([lo + (hi - lo) * p // 16 for p in _PLACES]) for name, lo, hi in ranges}


class Counterexamples:
    """Points of some variables, and the values of expressions at them, each found once."""

    def __init__(
        self,
        variables: Iterable[Range],
        parameters: Iterable[Range],
        numbers: Mapping[str, int | float],
    ) -> None:
        """Of variables and of parameters with their least and largest values, and of numbers.

        Args:
            numbers: of parameters that have one, by name.

        Raises:
            TypeMismatchError: a number does not fit in 64 bits.
        """
        known = {name: np.asarray(const(n).attribute) for name, n in numbers.items()}
        self._places = {Op.VAR: _places_of(variables), Op.PARAM: _places_of(parameters) | known}
        self._values: dict[Expr, Array | None] = {}
        self._free = 0

    def has(self, condition: Expr) -> bool:
        """Is the condition seen to be false, whatever its loads are taken for?

        A load may have any value, and the same one as another load or not. False says nothing.
        """
        with np.errstate(all="ignore"):
            values = self._of(condition)
        return values is not None and not values.all()

    def _of(self, expr: Expr) -> Array | None:
        """The values at all points; None where floats are in it, which round."""
        stack = [expr]
        while stack:
            new = [a for a in stack[-1].args if a not in self._values]
            if new:
                stack.extend(new)
                continue
            node = stack.pop()
            if node not in self._values:
                self._values[node] = self._make(node)
        return self._values[expr]

    def _make(self, node: Expr) -> Array | None:
        dtype = DTYPES.get(node.type)
        if dtype is None:
            return None
        match node.op:
            case Op.CONST:
                return np.asarray(node.attribute, dtype)
            case Op.LOAD:
                return self._anything(node.type)
            case Op.VAR | Op.PARAM:
                places = self._places[node.op].get(str(node.attribute))
                return self._anything(node.type) if places is None else places
        args = [self._values[a] for a in node.args]
        return None if any(a is None for a in args) else NUMPY[node.op](*args)

    def _anything(self, type: Type) -> Array:
        self._free += 1
        numbers = np.concatenate([np.roll(_NUMBERS, (self._free - 1) * _STEP), _SHARED])
        return numbers > 1 if type is Type.BOOL else numbers
