"""Masks that are written once and mean two things: an expression, and a predicate on plain ints.

A mask here is a function of (b, h, q, kv) in Python's operators and the helpers of this file. Given
`Sym` arguments it builds nodes; given ints it computes, which is the oracle. `masks()` draws such
functions, with the captures that they use.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from flexdsl.ir import Capture, DType, Expr, Kind, Op, Program, Type, apply, const, load, param, var

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Sym:
    """An expression with Python's operators, and nothing else of a front end."""

    expr: Expr

    def __abs__(self) -> Sym:
        return Sym(apply(Op.ABS, self.expr))

    def __neg__(self) -> Sym:
        return Sym(apply(Op.NEG, self.expr))


def _expr(value: Any) -> Expr:
    return value.expr if isinstance(value, Sym) else const(value)


def _forward(op: Op) -> Function:
    return lambda self, other: Sym(apply(op, self.expr, _expr(other)))


def _backward(op: Op) -> Function:
    return lambda self, other: Sym(apply(op, _expr(other), self.expr))


for _name, _op in {
    "add": Op.ADD, "sub": Op.SUB, "mul": Op.MUL, "floordiv": Op.FLOORDIV, "mod": Op.MOD,
    "xor": Op.BITXOR, "lt": Op.LT, "le": Op.LE, "gt": Op.GT, "ge": Op.GE, "eq": Op.EQ, "ne": Op.NE,
}.items():  # fmt: skip
    setattr(Sym, f"__{_name}__", _forward(_op))
    setattr(Sym, f"__r{_name}__", _backward(_op))


def _call(op: Op, plain: Function, *args: Any) -> Any:
    if any(isinstance(a, Sym) for a in args):
        return Sym(apply(op, *map(_expr, args)))
    return plain(*args)


both = partial(_call, Op.AND, lambda a, b: a and b)
either = partial(_call, Op.OR, lambda a, b: a or b)
no = partial(_call, Op.NOT, operator.not_)
where = partial(_call, Op.WHERE, lambda c, a, b: a if c else b)
minimum = partial(_call, Op.MIN, min)
maximum = partial(_call, Op.MAX, max)


@dataclass(frozen=True, eq=False)
class Table:
    """A captured array of integers or bools."""

    name: str
    array: Any

    def __getitem__(self, index: Any) -> Any:
        indices = index if isinstance(index, tuple) else (index,)
        if any(isinstance(i, Sym) for i in indices):
            dtype = DType.BOOL if self.array.dtype == bool else DType.I64
            return Sym(load(Capture(self.name, dtype, self.array.ndim), *map(_expr, indices)))
        assert all(0 <= i < n for i, n in zip(indices, self.array.shape, strict=True))
        return self.array[index].item()


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask in both meanings.

    `function(b, h, q, kv, **numbers)`: `numbers` are parameters, by name.
    """

    function: Function
    numbers: dict[str, int] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()

    def program(self) -> Program:
        symbols = [Sym(var(name)) for name in ("b", "h", "q", "kv")]
        params = {name: Sym(param(name, Type.INDEX)) for name in self.numbers}
        values = {**self.numbers, **{t.name: t.array for t in self.tables}}
        expr = _expr(self.function(*symbols, **params))
        return Program(Kind.MASK, "drawn", expr, values)

    def dense(self, batch: int, heads: int, q_len: int, kv_len: int, q_offset: int = 0) -> Any:
        """By brute force on ints: bool [batch, heads, q_len, kv_len]."""
        result = np.zeros((batch, heads, q_len, kv_len), bool)
        for b, h, q, kv in np.ndindex(*result.shape):
            result[b, h, q, kv] = self.function(b, h, q + q_offset, kv, **self.numbers)
        return result


def states_of(dense: Any, tile: tuple[int, int]) -> Any:
    """0 empty, 1 partial, 2 full of every tile, by looking at all of its pairs."""
    rows, columns = (-(-n // t) for n, t in zip(dense.shape[2:], tile, strict=True))
    states = np.zeros((*dense.shape[:2], rows, columns), np.int8)
    for b, h, i, j in np.ndindex(*states.shape):
        block = dense[b, h, i * tile[0] : (i + 1) * tile[0], j * tile[1] : (j + 1) * tile[1]]
        states[b, h, i, j] = int(block.any()) + int(block.all())
    return states


# --- random masks -----------------------------------------------------------------------------

LONGEST = 48  # positions of drawn masks are below
HEADS = 3
small = st.integers(-6, 20)
sizes = st.integers(1, 17)


def _numbers(depth: int, tables: tuple[Table, ...]) -> st.SearchStrategy[Function]:
    """Functions (b, h, q, kv) -> int."""
    leaves = st.sampled_from(
        [lambda b, h, q, kv: q, lambda b, h, q, kv: kv, lambda b, h, q, kv: q - kv]
    ) | small.map(lambda n: lambda b, h, q, kv: n)
    if depth == 0:
        return leaves
    below = _numbers(depth - 1, tables)
    binary = [operator.add, operator.sub, minimum, maximum, operator.xor]
    unary = [abs, operator.neg]
    pairs = st.tuples(st.sampled_from(binary), below, below).map(_apply2)
    quotients = st.tuples(
        st.sampled_from([operator.floordiv, operator.mod, operator.mul]), below, sizes
    ).map(_apply_constant)
    loads = [_load(t, below) for t in tables if t.array.dtype != bool]
    return st.one_of(
        leaves, pairs, quotients, *loads, st.tuples(st.sampled_from(unary), below).map(_apply1)
    )


def _apply1(drawn: tuple[Any, ...]) -> Function:
    f, x = drawn
    return lambda *p: f(x(*p)) if isinstance(x(*p), Sym | int) else x(*p)


def _apply2(drawn: tuple[Any, ...]) -> Function:
    f, x, y = drawn
    return lambda *p: f(x(*p), y(*p))


def _apply_constant(drawn: tuple[Any, ...]) -> Function:
    f, x, n = drawn
    return lambda *p: f(x(*p), n)


def _load(table: Table, index: st.SearchStrategy[Function]) -> st.SearchStrategy[Function]:
    """A load that is in range: of head h, of q, of kv, or of anything cut to the array."""
    n = len(table.array)
    if n == HEADS:
        return st.just(lambda b, h, q, kv: table[h])
    plain = st.sampled_from([lambda b, h, q, kv: table[q], lambda b, h, q, kv: table[kv]])
    cut = index.map(lambda x: lambda *p: table[maximum(0, minimum(n - 1, x(*p)))])
    return plain | cut


COMPARE = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


def _bools(depth: int, numbers: st.SearchStrategy[Function]) -> st.SearchStrategy[Function]:
    leaves = st.tuples(st.sampled_from(COMPARE), numbers, numbers).map(_apply2)
    if depth == 0:
        return leaves
    below = _bools(depth - 1, numbers)
    joined = st.tuples(st.sampled_from([both, either]), below, below).map(_apply2)
    chosen = st.tuples(below, below, below).map(_choose)
    return st.one_of(leaves, joined, joined, chosen, st.tuples(st.just(no), below).map(_apply1))


def _choose(drawn: tuple[Any, ...]) -> Function:
    c, x, y = drawn
    return lambda *p: where(c(*p), x(*p), y(*p))


@st.composite
def captures(draw: st.DrawFn) -> tuple[Table, ...]:
    """An array as long as the positions, sorted or in any order or constant; one of the heads."""
    kind = draw(st.sampled_from(["sorted", "random", "constant"]))
    values = draw(st.lists(st.integers(0, 5), min_size=LONGEST, max_size=LONGEST))
    array = np.array({"sorted": sorted(values), "constant": values[:1] * LONGEST}.get(kind, values))
    window = np.array(draw(st.lists(st.integers(0, 20), min_size=HEADS, max_size=HEADS)))
    return Table("doc", array), Table("window", window)


@st.composite
def masks(draw: st.DrawFn, depth: int = 2) -> Mask:
    """Any mask: all operations of integers, loads at q, at kv and at what is computed."""
    tables = draw(captures())
    return Mask(draw(_bools(depth, _numbers(depth, tables))), {}, tables)


@st.composite
def solvable_masks(draw: st.DrawFn) -> Mask:
    """Masks made of what a closed form can be found for, and of conditions on q alone."""
    tables = draw(captures())
    (doc, window), size, other = tables, draw(sizes), draw(sizes)
    n, m = draw(small), draw(small)
    atoms: list[Function] = [
        lambda b, h, q, kv: q + n >= kv,
        lambda b, h, q, kv: q - kv < size,
        lambda b, h, q, kv: abs(q - kv + m) <= n,
        lambda b, h, q, kv: kv < n,
        lambda b, h, q, kv: kv >= maximum(q - n, m),
        lambda b, h, q, kv: q // size == kv // size,
        lambda b, h, q, kv: q // size >= kv // other,
        lambda b, h, q, kv: (kv + 1) * size <= q + m,
        lambda b, h, q, kv: q - kv < window[h],
        lambda b, h, q, kv: both(q >= kv, q - kv < window[h]),
        lambda b, h, q, kv: both(q * size <= kv, kv < q * size + other),
        lambda b, h, q, kv: both(kv <= 40 - q * size, kv > 40 - q * size - other),
        lambda b, h, q, kv: 2 * kv - q <= n,
        lambda b, h, q, kv: kv >= q - q % size,
        lambda b, h, q, kv: q + kv < 3 * size,
        lambda b, h, q, kv: q < n,
        lambda b, h, q, kv: q >= size,
        lambda b, h, q, kv: kv != q + m,
        lambda b, h, q, kv: kv == q // size,
        lambda b, h, q, kv: kv >= doc[q] * size - n,
        lambda b, h, q, kv: both(doc[q] * size <= kv, kv < doc[q] * size + other),
        lambda b, h, q, kv: doc[q] <= 2,
        lambda b, h, q, kv: q % size == 0,
        lambda b, h, q, kv: either(q >= 30, kv < doc[q]),
        lambda b, h, q, kv: q % 24 // size >= kv % 24 // size,
        lambda b, h, q, kv: where(q < 24, both(kv >= q, kv < 24), kv % 24 <= q - 24),
    ]
    leaf = st.sampled_from(atoms)
    tree = st.recursive(
        leaf,
        lambda x: (
            st.tuples(st.sampled_from([both, either]), x, x).map(_apply2)
            | st.tuples(st.just(no), x).map(_apply1)
        ),
        max_leaves=4,
    )
    return Mask(draw(tree), {}, tables)


@dataclass(frozen=True)
class Shape:
    """Sizes of a plan of a drawn mask; positions stay below LONGEST."""

    q_len: int
    kv_len: int
    tile: tuple[int, int]
    q_offset: int


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    q_len, kv_len = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    tile = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    return Shape(q_len, kv_len, tile, draw(st.integers(0, LONGEST - q_len)))
