"""Quotients and remainders of sums whose terms are known by their form: digits of an index.

    (x * 96 + c) // 96 -> x          where 0 <= c < 96 whatever the variables are
    (x * 96 + c) % 96  -> c
    x // 128 // 6      -> x // 768
    x % 128 % 16       -> x % 16
    (x * 96 + y) % 96  -> y % 96
    x // 128 % 6 * 128 + x % 128 -> x % 768

Coordinates that are flattened to an index and taken apart again (a grid in another token order)
come out as they went in. What bounds a term is its own form, as of `y % 6 * 16`: the ranges of
variables are the analysis' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce

from flexdsl.ir.expr import Expr, intern
from flexdsl.ir.ops import Op
from flexdsl.ir.types import Type

Make = Callable[..., Expr]
Bounds = tuple[int, int]  # smallest and largest value, both inclusive


def simplify_quotient(op: Op, dividend: Expr, divisor: Expr, make: Make) -> Expr | None:
    """What `dividend // divisor` or `dividend % divisor` simplifies to, or None.

    Args:
        op: Op.FLOORDIV or Op.MOD.
    """
    n = _constant(divisor)
    if n is None or n < 1:
        return None
    ways = [_of_digits, _of_quotient, *([_without_multiples] if op is Op.MOD else [])]
    found = (way(op, dividend, n, make) for way in ways)
    return next((simpler for simpler in found if simpler is not None), None)


def join_digits(a: Expr, b: Expr, make: Make) -> Expr | None:
    """What `a + b` simplifies to where they are digits of one index that stand side by side."""
    for high, low in ((a, b), (b, a)):
        n = _constant(low.args[1]) if low.op is Op.MOD else None
        if n is None or n < 1 or high.op is not Op.MUL or _factor(high) != n:
            continue
        digits = _multiplied(high)
        m = _constant(digits.args[1]) if digits.op is Op.MOD else None
        above = digits.args[0] if m is not None and m > 0 else digits
        if above is not make(Op.FLOORDIV, low.args[0], _index(n)) or n * (m or 1) >= 2**31:
            continue
        return make(Op.MOD, low.args[0], _index(m * n)) if m else low.args[0]
    return None


def _of_quotient(op: Op, dividend: Expr, n: int, make: Make) -> Expr | None:
    """A quotient of a quotient, a remainder of a remainder."""
    m = _constant(dividend.args[1]) if dividend.op is op else None
    if m is None or m < 1:
        return None
    if op is Op.FLOORDIV:
        return make(op, dividend.args[0], _index(m * n)) if m * n < 2**31 else None
    return make(op, dividend.args[0], _index(n)) if m % n == 0 else None


def _of_digits(op: Op, dividend: Expr, n: int, make: Make) -> Expr | None:
    """Terms that `n` divides, and a rest that is less than `n`."""
    terms = list(_terms(dividend, 1, make))
    whole = [t for t in terms if _factor(t) % n == 0]
    rest = [t for t in terms if _factor(t) % n != 0]
    bounds = [bounds_by_form(t) for t in rest]
    known = [b for b in bounds if b is not None]
    if len(known) < len(rest) or sum(b[0] for b in known) < 0 or sum(b[1] for b in known) >= n:
        return None
    if op is Op.MOD:
        return _sum(rest, make)
    return _sum([_divided(t, n, make) for t in whole], make)


def _without_multiples(op: Op, dividend: Expr, n: int, make: Make) -> Expr | None:
    """The remainder of a sum or difference without the terms that `n` divides."""
    terms = list(_signed(dividend, False))
    rest = [(t, negative) for t, negative in terms if _factor(t) % n != 0]
    if len(rest) == len(terms):
        return None
    added, taken = ([t for t, negative in rest if negative is sign] for sign in (False, True))
    if added or not taken:
        whole = make(Op.SUB, _sum(added, make), _sum(taken, make))
    else:  # not 0 less that: the 0 would be left out again
        whole = make(Op.NEG, _sum(taken, make))
    return make(Op.MOD, whole, _index(n))


def _signed(expr: Expr, negative: bool) -> Iterator[tuple[Expr, bool]]:
    """The terms of a sum or difference, and which are subtracted."""
    if expr.op in (Op.ADD, Op.SUB):
        yield from _signed(expr.args[0], negative)
        yield from _signed(expr.args[1], negative ^ (expr.op is Op.SUB))
    else:
        yield expr, negative


def _terms(expr: Expr, factor: int, make: Make) -> Iterator[Expr]:
    """The terms of a sum, those of sums that are multiplied by a constant too."""
    if expr.op is Op.ADD:
        for a in expr.args:
            yield from _terms(a, factor, make)
    elif expr.op is Op.MUL and _factor(expr) != 1:
        yield from _terms(_multiplied(expr), factor * _factor(expr), make)
    else:
        yield make(Op.MUL, expr, _index(factor))


def _sum(terms: list[Expr], make: Make) -> Expr:
    return reduce(lambda a, b: make(Op.ADD, a, b), terms) if terms else _index(0)


def _factor(term: Expr) -> int:
    """The constant of a constant or of a product with one; 1 for any other term."""
    values = [_constant(x) for x in (term.args if term.op is Op.MUL else (term,))]
    return next((v for v in values if v is not None), 1)


def _multiplied(product: Expr) -> Expr:
    """What the constant of a product multiplies."""
    return next(x for x in product.args if _constant(x) is None)


def _divided(term: Expr, n: int, make: Make) -> Expr:
    """`term / n`, where n divides the term's factor."""
    value = _constant(term)
    if value is not None:
        return _index(value // n)
    return make(Op.MUL, _multiplied(term), _index(_factor(term) // n))


def bounds_by_form(expr: Expr) -> Bounds | None:
    """The least and the largest value that an index can have whatever its variables are."""
    value = _constant(expr)
    if value is not None:
        return value, value
    if expr.op is Op.MOD:
        n = _constant(expr.args[1])
        return (0, n - 1) if n is not None and n > 0 else None
    bounds = [bounds_by_form(a) for a in expr.args]
    if expr.op in (Op.MIN, Op.MAX, Op.ADD, Op.MUL, Op.FLOORDIV) and None not in bounds:
        (a, b), (c, d) = (x for x in bounds if x is not None)
        return _combined(expr.op, a, b, c, d)
    return None


def _combined(op: Op, a: int, b: int, c: int, d: int) -> Bounds | None:
    match op:
        case Op.ADD:
            return a + c, b + d
        case Op.MIN:
            return min(a, c), min(b, d)
        case Op.MAX:
            return max(a, c), max(b, d)
        case Op.FLOORDIV:
            return (a // c, b // c) if c == d and c > 0 else None
    products = [a * c, a * d, b * c, b * d]
    return min(products), max(products)


def _constant(expr: Expr) -> int | None:
    value = expr.attribute
    if expr.op is Op.CONST and expr.type is Type.INDEX and isinstance(value, int):
        return value
    return None


def _index(value: int) -> Expr:
    return intern(Op.CONST, (), value, Type.INDEX)
