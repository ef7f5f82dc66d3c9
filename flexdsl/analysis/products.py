"""Products of a number of the row and one of the key that a score adds, as columns of matrices.

    score + x[q] * y[kv] - 2.0 * u[q] * w[kv] + z[kv]        three columns for each, or six

A matrix product of bfloat16 numbers adds them all: S = Q K^T + F G^T (FlashBias, arXiv 2505.12044).
A float32 number is the sum of three bfloat16 numbers, to the last bit; of the products of two such
sums those above 2**-23 of the whole have a column each. So the sum is as exact as that of float32
products, whatever the numbers are. The scores are multiplied by the scale afterwards, so one of
the two numbers is divided by it before. Squares of differences are products too, if what that loses
is little: who asks for them looks at their numbers (`Factored.squares`). Other terms of q - kv are
none, as their parts can be much larger than their sum (`separable.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from flexdsl.analysis.terms import ONE, ZERO, Signed, products_of, terms_of
from flexdsl.analysis.values import substitute
from flexdsl.ir import Capture, DType, Expr, Op, Program, apply, var, walk

PARTS = 3  # bfloat16 numbers whose sum is any float32 number
STEP = 16  # columns: what one step of a matrix product takes
MOST_COLUMNS = 96
_BITS = 8  # of a bfloat16 number
_LARGEST = 3.4e38  # a float32 number is not much larger
_SCORE = var("score")
_PARTS_OF_LOADS = {DType.BF16: 1, DType.F16: 2}


@dataclass(frozen=True, slots=True)
class Product:
    """A number of the row times one of the key.

    Attributes:
        row, key: the two; the first is free of kv, the second of q.
    """

    row: Expr
    key: Expr

    @property
    def divides_row(self) -> bool:
        """Is it the row's number that is divided by the scale? It is the one of more parts."""
        return _parts(self.row) >= _parts(self.key)

    @property
    def columns(self) -> tuple[tuple[int, int], ...]:
        """For each column, which part of the row's number and which of the key's it multiplies."""
        row, key = _parts(self.row), _parts(self.key)
        row, key = (PARTS, key) if self.divides_row else (row, PARTS)
        return tuple((i, j) for i in range(row) for j in range(key) if i + j < PARTS)


@dataclass(frozen=True, slots=True)
class Factored:
    """A score whose products are taken out.

    Attributes:
        products: what is added to the score before all else.
        rest: what is made of that sum, which is the variable score in it.
        squares: of those that were multiplied out, the sum of the rows' parts and that of the
            keys', each part without its sign; both 0 where there are none. The loss is about 2**-22
            of the larger one.
    """

    products: tuple[Product, ...]
    rest: Expr
    squares: tuple[Expr, Expr] = (ZERO, ZERO)

    @property
    def has_squares(self) -> bool:
        """Was a square multiplied out?"""
        return self.squares != (ZERO, ZERO)


def width_of(products: tuple[Product, ...]) -> int:
    """How many columns the matrices of the products have, those of zeros included."""
    return -(-_columns(products) // STEP) * STEP


def depends_on(products: tuple[Product, ...], name: str) -> tuple[bool, bool]:
    """Do the numbers of rows, and do those of keys, depend on the variable `name`?"""
    rows, keys = (any(name in getattr(p, s).variables for p in products) for s in ("row", "key"))
    return rows, keys


# Asked about the same few scores in each call of attention.
@lru_cache(maxsize=256)
def find_products(score: Expr, *, squares: bool = False) -> Factored | None:
    """The score with its products taken out; None where it adds none, or does so in two places.

    Args:
        squares: those of differences are multiplied out.
    """
    for node in reversed(tuple(walk(score))):
        terms = _added(node)
        # Whatever else is made of the score would not have them.
        if terms is not None and "score" not in substitute(score, {node: ONE}).variables:
            found = _taken_out(terms, squares)
            return found and replace(found, rest=substitute(score, {node: found.rest}))
    return None


def take_products(score: Program | None) -> tuple[tuple[Product, ...], Program | None]:
    """The products of a score, and what is left of it; none where kernels have not the columns.

    Squares are not multiplied out: their numbers are not known here.
    """
    return taken(score, None if score is None else find_products(score.expr))


def taken(
    score: Program | None, found: Factored | None
) -> tuple[tuple[Product, ...], Program | None]:
    """The products that were found of a score, and what is left of it, as `take_products`."""
    if score is None or found is None or width_of(found.products) > MOST_COLUMNS:
        return (), score
    rest = None if found.rest is _SCORE else replace(score, expr=found.rest)
    return found.products, rest


def find_most_products(score: Expr) -> Factored | None:
    """The score with its products taken out, those of squares too if kernels have the columns."""
    found = find_products(score, squares=True)
    if found is None or (found.has_squares and width_of(found.products) > MOST_COLUMNS):
        return find_products(score)
    return found


def describe_products(found: Factored | None) -> Iterator[str]:
    """A line about the products of a score, if there are any."""
    if found is not None:
        count, columns = len(found.products), _columns(found.products)
        of_squares = ", of squares multiplied out" if found.has_squares else ""
        yield (
            f"{count} product{'s' * (count > 1)} of a number of q and one of kv{of_squares}:"
            f" {columns} columns of matrices in bfloat16"
        )


def _columns(products: tuple[Product, ...]) -> int:
    return sum(len(p.columns) for p in products)


def _added(node: Expr) -> list[Signed] | None:
    """The terms that `node` adds to the score; None where it is no such sum."""
    terms: list[Signed] = []
    while node is not _SCORE:
        if node.op not in (Op.ADD, Op.SUB):
            return None
        first, second = node.args
        if node.op is Op.ADD and "score" in second.variables:
            first, second = second, first
        if "score" in second.variables:
            return None
        terms += terms_of(second, node.op is Op.SUB)
        node = first
    return terms


def _taken_out(terms: list[Signed], squares: bool) -> Factored | None:
    """Products of both sides; with them what is of one side alone, a product with 1."""
    products: list[Product] = []
    of_row, of_key, rest = ZERO, ZERO, _SCORE
    large = [ZERO, ZERO]
    for term, negative in terms:
        found = products_of(term, negative, squares=squares)
        if found is None:
            rest = apply(Op.SUB if negative else Op.ADD, rest, term)
            continue
        for row, key in found.pairs:
            if "kv" not in key.variables:
                of_row = apply(Op.ADD, of_row, apply(Op.MUL, row, key))
            elif "q" not in row.variables:
                of_key = apply(Op.ADD, of_key, apply(Op.MUL, row, key))
            else:
                products.append(Product(row, key))
        for row, key in found.squares:
            part = apply(Op.ABS, apply(Op.MUL, row, key))
            side = "kv" in key.variables
            large[side] = apply(Op.ADD, large[side], part)
    if not products:
        return None
    products += [Product(of_row, ONE)] if of_row is not ZERO else []
    products += [Product(ONE, of_key)] if of_key is not ZERO else []
    return Factored(tuple(products), rest, (large[0], large[1]))


def _parts(number: Expr) -> int:
    """How many bfloat16 numbers add up to a number exactly, as far as its form tells."""
    if number.op is Op.NEG:
        return _parts(number.args[0])
    if isinstance(number.attribute, Capture):
        return _PARTS_OF_LOADS.get(number.attribute.dtype, PARTS)
    if number.op is Op.CONST and isinstance(number.attribute, float):
        return _parts_of_constant(number.attribute)
    return PARTS


def _parts_of_constant(value: float) -> int:
    if not abs(value) <= _LARGEST:
        return PARTS
    bits = int.from_bytes(struct.pack(">f", value))
    significand = bits & 0x7FFFFF | 0x800000
    zeros = (significand & -significand).bit_length() - 1
    return -(-(24 - zeros) // _BITS)
