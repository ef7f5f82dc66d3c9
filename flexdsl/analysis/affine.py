"""Linear normal form of index expressions: sum of coefficient * atom + constant.

An atom is a variable, a parameter, a load or any operation that is not linear. Like terms cancel,
so `q - kv < w` is judged on one difference and keeps its correlation. Nothing here knows ranges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from flexdsl.ir import Expr, Op, Type, apply, const, walk

REMEMBERED = 1 << 13  # most recent forms
MAX_SCALE = 2**20  # of forms that are multiplied to rid them of quotients


@dataclass(frozen=True, slots=True)
class Linear:
    """sum(coefficient * atom) + constant; no coefficient is zero and no atom occurs twice."""

    terms: tuple[tuple[Expr, int], ...]
    constant: int

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        """self + factor * other."""
        sums = dict(self.terms)
        for atom, coefficient in other.terms:
            sums[atom] = sums.get(atom, 0) + factor * coefficient
        terms = tuple((a, c) for a, c in sums.items() if c)
        return Linear(terms, self.constant + factor * other.constant)

    def times(self, factor: int) -> Linear:
        """factor * self."""
        return Linear((), 0).plus(self, factor)

    def coefficient(self, atom: Expr) -> int:
        """The coefficient of `atom`, 0 where it does not occur."""
        return dict(self.terms).get(atom, 0)

    def without(self, atom: Expr) -> Linear:
        """The form less the term of `atom`."""
        return Linear(tuple(t for t in self.terms if t[0] is not atom), self.constant)

    def to_expr(self) -> Expr:
        """The form as an expression: positive terms first, so that it reads as people write."""
        positive = [(a, c) for a, c in self.terms if c > 0]
        negative = [(a, -c) for a, c in self.terms if c < 0]
        constant = self.constant
        if positive:
            result = _sum(positive)
        elif constant > 0 or not negative:
            result, constant = const(constant), 0
        else:
            result = apply(Op.NEG, _scaled(*negative.pop(0)))
        for atom, coefficient in negative:
            result = apply(Op.SUB, result, _scaled(atom, coefficient))
        if constant:
            op = Op.ADD if constant > 0 else Op.SUB
            result = apply(op, result, const(abs(constant)))
        return result


def _scaled(atom: Expr, coefficient: int) -> Expr:
    return apply(Op.MUL, atom, const(coefficient))


def _sum(terms: Iterable[tuple[Expr, int]]) -> Expr:
    first, *rest = (_scaled(a, c) for a, c in terms)
    for term in rest:
        first = apply(Op.ADD, first, term)
    return first


# A form depends on its node alone, and the same few nodes are asked about in every plan of a mask.
@lru_cache(maxsize=REMEMBERED)
def _form_of(expr: Expr) -> Linear:
    return LinearForms().made(expr)


class LinearForms:
    """Linear forms of expressions, each made once."""

    def __init__(self) -> None:
        self._done: dict[Expr, Linear] = {}

    def of(self, expr: Expr) -> Linear:
        """The normal form of an index expression."""
        return _form_of(expr)

    def made(self, expr: Expr) -> Linear:
        """`of`, from its operands up."""
        for node in walk(expr):
            if node.type is Type.INDEX:
                self._done[node] = self._make(node)
        return self._done[expr]

    def difference(self, a: Expr, b: Expr) -> Linear:
        """The normal form of a - b."""
        return self.of(a).plus(self.of(b), -1)

    def _make(self, node: Expr) -> Linear:
        done = self._done
        if node.op is Op.CONST:
            assert isinstance(node.attribute, int)
            return Linear((), int(node.attribute))
        if node.op is Op.NEG:
            return done[node.args[0]].times(-1)
        if node.op in (Op.ADD, Op.SUB):
            return done[node.args[0]].plus(done[node.args[1]], 1 if node.op is Op.ADD else -1)
        if node.op is Op.MUL:
            for x, y in (node.args, node.args[::-1]):
                if not done[x].terms:
                    return done[y].times(done[x].constant)
        if node.op is Op.SHL:
            shift = done[node.args[1]]
            if not shift.terms and 0 <= shift.constant < 63:
                return done[node.args[0]].times(1 << shift.constant)
        return Linear(((node, 1),), 0)


def divisor_of(node: Expr) -> int | None:
    """T where `node` is x // T (or a shift right) by a positive constant."""
    if node.op in (Op.FLOORDIV, Op.SHR) and node.args[1].op is Op.CONST:
        value = node.args[1].attribute
        assert isinstance(value, int)
        if node.op is Op.SHR:
            return 1 << value if 0 <= value < 62 else None
        return value if value > 0 else None
    return None


def without_quotients(form: Linear, forms: LinearForms) -> tuple[Linear, int]:
    """The form times a factor, with every T*(x // T) replaced by x - x % T, and the factor.

    It has the same value, but other terms to cancel: 4*((q+1) // 4) - 4*(q // 4) is at most 4.
    """
    scale = 1
    for atom, coefficient in form.terms:
        period = divisor_of(atom) or 1
        scale = math.lcm(scale, period // math.gcd(period, coefficient))
    form = form.times(scale) if scale <= MAX_SCALE else form
    scale = scale if scale <= MAX_SCALE else 1
    result = Linear((), form.constant)
    for atom, coefficient in form.terms:
        divisor = divisor_of(atom)
        if divisor is None or coefficient % divisor:
            result = result.plus(Linear(((atom, coefficient),), 0))
            continue
        factor = coefficient // divisor
        remainder = apply(Op.MOD, atom.args[0], const(divisor))
        result = result.plus(forms.of(atom.args[0]), factor).plus(forms.of(remainder), -factor)
    return result, scale
