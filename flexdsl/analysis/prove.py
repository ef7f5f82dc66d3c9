"""Proofs of conditions for every outer position, batch and head of a plan at once.

Comparisons are first split on min, max, abs and where, so that every case is one bound on a linear
form; each is then judged on one box. What is false at a point that is looked at first is not tried
to be proven. A failed proof says nothing about the condition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial, reduce

import numpy as np

from flexdsl.analysis.affine import LinearForms
from flexdsl.analysis.counterexamples import Counterexamples, Range
from flexdsl.analysis.domain import Array, Interval, Truth, Value
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.steps import Box, plain_ranges
from flexdsl.analysis.truth import Judge
from flexdsl.analysis.values import Arrays, Bindings, specialise
from flexdsl.ir import Expr, Op, Type, apply, const
from flexdsl.ir.ops import COMPARISONS

SPLIT_OPS = frozenset({Op.MIN, Op.MAX, Op.ABS, Op.WHERE})
MAX_CASES = 64
REMEMBERED = 1 << 12  # most recent proofs
TRUE = const(True)
LARGEST = 2**31 - 1  # kernels compute bounds in 32 bits


def split_comparison(node: Expr, forms: LinearForms, wanted: Callable[[Expr], bool]) -> Expr | None:
    """An equal condition without the first wanted min, max, abs or where; None if there is none.

    A comparison with max(x, y) is one with x and one with y, joined by `and` or by `or` according
    to the direction in which the maximum counts.
    """
    if node.op not in COMPARISONS or node.args[0].type is not Type.INDEX:
        return None
    form = forms.difference(*node.args)
    found = next(((a, c) for a, c in form.terms if a.op in SPLIT_OPS and wanted(a)), None)
    if found is None:
        return None
    if node.op is Op.EQ:
        return apply(Op.AND, apply(Op.LE, *node.args), apply(Op.GE, *node.args))
    if node.op is Op.NE:
        return apply(Op.OR, apply(Op.LT, *node.args), apply(Op.GT, *node.args))
    atom, coefficient = found
    rest = form.without(atom)

    def case(value: Expr) -> Expr:
        whole = rest.plus(forms.of(value), coefficient)
        return apply(node.op, whole.to_expr(), const(0))

    if atom.op is Op.WHERE:
        condition, a, b = atom.args
        otherwise = apply(Op.AND, apply(Op.NOT, condition), case(b))
        return apply(Op.OR, apply(Op.AND, condition, case(a)), otherwise)
    if atom.op is Op.ABS:
        x, y = atom.args[0], apply(Op.NEG, atom.args[0])
    else:
        x, y = atom.args
    largest = (atom.op is not Op.MIN) == (coefficient > 0)
    both = largest == (node.op in (Op.LT, Op.LE))
    return apply(Op.AND if both else Op.OR, case(x), case(y))


def _box_of(ranges: tuple[Range, ...]) -> dict[str, tuple[Array, Array]]:
    return {name: (np.array([lo]), np.array([hi])) for name, lo, hi in ranges}


# The plans of one mask, of its backward and of the next call ask for the same proofs.
@lru_cache(maxsize=REMEMBERED)
def _holds(condition: Expr, ranges: tuple[Range, ...], parameters: tuple[Range, ...]) -> bool:
    """Is the condition proven in these ranges whatever its loads give?"""
    known = {name: (least, largest) for name, least, largest in parameters}
    return _is_decided(condition, Bindings({}, Arrays({}), known), _box_of(ranges))


def _is_decided(condition: Expr, bindings: Bindings, box: Box) -> bool:
    """Is the condition proven, by the ranges of its operands or by all that is known of it?"""
    plain = plain_ranges((condition,), bindings, box)[condition]
    if isinstance(plain, Truth) and bool(np.all(plain.always)):
        return True
    return bool(np.all(Judge(condition, bindings).truth(box).always))


def _all_fit(exprs: list[Expr]) -> Expr:
    """Are all of them within 32 bits?"""
    bounds = (b for e in exprs for b in ((const(-LARGEST), e), (e, const(LARGEST))))
    return reduce(partial(apply, Op.AND), (apply(Op.LE, *bound) for bound in bounds), TRUE)


def _is_small(value: Value) -> bool:
    """Is it a number within 32 bits?"""
    if not isinstance(value, Interval) or not value.is_index:
        return False
    return bool(np.all(value.lo >= -LARGEST) and np.all(value.hi <= LARGEST))


@dataclass(frozen=True, eq=False)
class Prover:
    """Proves conditions on `outer` ("q" or "kv"), b and h over all their values in `grid`.

    What makes a closed form *right* is proven by `timeless`, which knows no captured contents, so
    that it stays right when they change, as under a CUDA graph. What makes it *exact* (bounds of
    tiles no wider than needed) may be proven from the contents as they are.
    """

    outer: str
    grid: Grid
    bindings: Bindings
    forms: LinearForms = field(default_factory=LinearForms)
    _done: dict[Expr, bool] = field(default_factory=dict[Expr, bool])
    _small: dict[tuple[Expr, ...], bool] = field(default_factory=dict[tuple[Expr, ...], bool])

    @cached_property
    def timeless(self) -> Prover:
        """Proves the same of any contents of the captured tensors."""
        return Prover(self.outer, self.grid, self.bindings.unread, self.forms)

    def always(self, condition: Expr) -> bool:
        """Is the condition proven for every outer position, b and h?"""
        if condition not in self._done:
            self._done[condition] = not self._is_refuted(condition) and self._prove(
                specialise(condition, self.bindings), [MAX_CASES]
            )
        return self._done[condition]

    def _prove(self, condition: Expr, budget: list[int]) -> bool:
        budget[0] -= 1
        if budget[0] < 0:
            return False
        if condition.op is Op.CONST:
            return condition.attribute is True
        if self._is_refuted(condition):
            return False
        if condition.op is Op.AND:
            return all(self._prove(part, budget) for part in condition.args)
        if self._judge(condition):
            return True
        if condition.op is Op.OR:
            return any(self._prove(part, budget) for part in condition.args)
        cases = split_comparison(condition, self.forms, lambda atom: True)
        return cases is not None and self._prove(cases, budget)

    def _is_refuted(self, condition: Expr) -> bool:
        """Is the condition false at a point? False says nothing."""
        if self.bindings.arrays and condition.loads:
            return False  # points take loads for any numbers, but here their contents count
        return self._counterexamples.has(condition)

    def fits(self, *exprs: Expr) -> bool:
        """Do indices fit in 32 bits for every outer position, b and h?"""
        if exprs not in self._small:
            values = [specialise(expr, self.bindings) for expr in exprs]
            self._small[exprs] = self._fit_plainly(values) or self._judge(_all_fit(values))
        return self._small[exprs]

    def _fit_plainly(self, exprs: list[Expr]) -> bool:
        """Do they fit by the ranges of their operands alone, as nearly all do?"""
        box = self._box()
        if not all(expr.variables <= box.keys() for expr in exprs):
            return False
        ranges = plain_ranges(exprs, self.bindings, box)
        return all(_is_small(ranges[expr]) for expr in exprs)

    def range_of(self, expr: Expr) -> tuple[int, int] | None:
        """The least and largest value of an index over the whole grid; None where loads are in it.

        Positions of both axes may be in it.
        """
        box = self._box() | self._inner_box()
        if not expr.variables <= box.keys() or expr.loads:
            return None
        found = Judge(expr, self.bindings).interval(box)
        return int(found.lo.min()), int(found.hi.max())

    def _judge(self, condition: Expr) -> bool:
        if not condition.variables <= {name for name, _, _ in self._ranges}:
            return False
        if not self.bindings.arrays or not condition.loads:
            return _holds(condition, self._ranges, self._parameters)
        return _is_decided(condition, self.bindings, self._box())

    @cached_property
    def _counterexamples(self) -> Counterexamples:
        return Counterexamples(self._ranges, self._parameters, self.bindings.numbers)

    @cached_property
    def _parameters(self) -> tuple[Range, ...]:
        """Those of which no number is known."""
        return tuple((name, *ends) for name, ends in self.bindings.ranges.items())

    @cached_property
    def _ranges(self) -> tuple[Range, ...]:
        """b, h and the outer positions."""
        return (
            ("b", 0, self.grid.batch - 1),
            ("h", 0, self.grid.heads - 1),
            (self.outer, *self._positions(self.outer)),
        )

    def _box(self) -> dict[str, tuple[Array, Array]]:
        return _box_of(self._ranges)

    def _inner_box(self) -> dict[str, tuple[Array, Array]]:
        inner = "kv" if self.outer == "q" else "q"
        first, last = self._positions(inner)
        return {inner: (np.array([first]), np.array([last]))}

    @property
    def positions(self) -> tuple[int, int]:
        """The first position of the outer axis, and how many it has."""
        first, last = self._positions(self.outer)
        return first, last - first + 1

    def _positions(self, axis: str) -> tuple[int, int]:
        """First and last position of an axis."""
        first = self.grid.q_offset if axis == "q" else 0
        length = self.grid.q_len if axis == "q" else self.grid.kv_len
        return first, first + length - 1
