"""Terms of a score as products of a number of the row and one of the key, multiplied out.

    w[h] * (x[q] - y[kv]) ** 2    is    w x x * 1  -  2 w x * y  +  w * y y

A sum that stands in a product is multiplied out term by term: what is rounded then is no larger
than its terms were. A square of a difference is another matter: its parts can be much larger than
itself, and where they are, digits are lost. So its parts are given apart, for whoever knows the
numbers. What kernels make of products is for `products.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flexdsl.ir import Expr, Op, Type, apply, const

ONE, ZERO = const(1.0), const(0.0)
_BOTH = frozenset({"q", "kv"})
_MOST = 128  # products of one term; kernels have columns for fewer
Signed = tuple[Expr, bool]  # a term, and is it subtracted?
Pair = tuple[Expr, Expr]  # a number of the row, free of kv, and one of the key, free of q


@dataclass(frozen=True, slots=True)
class Products:
    """What a term is the sum of.

    Attributes:
        pairs: products of a number of the row and one of the key.
        squares: those of them that are the squares of a side, of squares multiplied out.
    """

    pairs: tuple[Pair, ...]
    squares: tuple[Pair, ...] = ()

    def times(self, row: Expr, key: Expr) -> Products:
        """All of them times a number of each side."""
        return Products(
            *(tuple(_times(p, row, key) for p in x) for x in (self.pairs, self.squares))
        )

    def plus(self, other: Products) -> Products:
        """The sum of both."""
        return Products(self.pairs + other.pairs, self.squares + other.squares)


def terms_of(node: Expr, negative: bool) -> list[Signed]:
    """The terms of a sum."""
    match node.op:
        case Op.ADD | Op.SUB:
            first, second = node.args
            return terms_of(first, negative) + terms_of(second, negative ^ (node.op is Op.SUB))
        case Op.NEG:
            return terms_of(node.args[0], not negative)
    return [(node, negative)]


def products_of(term: Expr, negative: bool, *, squares: bool) -> Products | None:
    """A term as a sum of products; None where a factor of it that knows both sides is no such sum.

    What is of one side alone is a product with 1.

    Args:
        squares: those of differences are multiplied out too.
    """
    if not term.variables >= _BOTH:
        signed = apply(Op.NEG, term) if negative else term
        return Products(((ONE, signed) if "kv" in term.variables else (signed, ONE),))
    row, key = const(-1.0) if negative else ONE, ONE
    both: list[Expr] = []
    for factor in _factors(term):
        if factor.variables >= _BOTH:
            both.append(factor)
        elif "kv" in factor.variables:
            key = apply(Op.MUL, key, factor)
        else:
            row = apply(Op.MUL, row, factor)
    match both:
        case []:
            return Products(((row, key),))
        case [factor]:
            found = _sum_of_products(factor, squares)
        case [factor, other] if squares and factor is other:
            found = _square(factor)
        case _:
            found = None
    return found and found.times(row, key)


def _sum_of_products(node: Expr, squares: bool) -> Products | None:
    terms = terms_of(node, False)
    if len(terms) == 1:
        return None
    found = Products(())
    for term, negative in terms:
        more = products_of(term, negative, squares=squares)
        if more is None or len(found.pairs) + len(more.pairs) > _MOST:
            return None
        found = found.plus(more)
    return found


def _square(node: Expr) -> Products | None:
    """The square of a sum whose terms are of one side each."""
    row, key = ZERO, ZERO
    for term, negative in terms_of(node, False):
        if term.variables >= _BOTH:
            return None
        signed = apply(Op.NEG, term) if negative else term
        if "kv" in term.variables:
            key = apply(Op.ADD, key, signed)
        else:
            row = apply(Op.ADD, row, signed)
    ends = (apply(Op.MUL, row, row), ONE), (ONE, apply(Op.MUL, key, key))
    return Products((ends[0], (apply(Op.MUL, const(2.0), row), key), ends[1]), ends)


def _times(pair: Pair, row: Expr, key: Expr) -> Pair:
    return apply(Op.MUL, row, pair[0]), apply(Op.MUL, key, pair[1])


def _factors(node: Expr) -> Iterator[Expr]:
    match node.op:
        case Op.MUL:
            for factor in node.args:
                yield from _factors(factor)
        case Op.DIV if node.type is Type.FLOAT:
            yield from _factors(node.args[0])
            yield apply(Op.DIV, ONE, node.args[1])
        case Op.NEG:
            yield const(-1.0)
            yield from _factors(node.args[0])
        case _:
            yield node
