"""Random well-typed expressions, and what they mean by Python's own numbers.

A `Tree` is nested tuples, `(op, operand, ...)` or `(op, attribute)` for a leaf, so that one drawn
tree can be built into nodes (and simplified on the way) and evaluated without any of that.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from flexdsl.errors import TypeMismatchError
from flexdsl.ir import (
    OPS,
    Capture,
    DType,
    Expr,
    Op,
    Operands,
    Type,
    apply,
    const,
    load,
    param,
    var,
)
from flexdsl.ir.ops import LEAVES
from flexdsl.ir.scalar import SCALAR

Tree = tuple[Any, ...]

B, I, F = Type.BOOL, Type.INDEX, Type.FLOAT  # noqa: E741
TYPES = {"b": I, "h": I, "q": I, "kv": I, "score": F, "window": I, "slope": F}
VALUES: dict[str, Any] = {
    "window": 5,
    "slope": -0.375,
    "doc": np.array([0, 0, 1, 1, 3, 3, 3, 4]),
    "seen": np.array([[True, False], [False, False], [True, True]]),
    "bias": np.array([0.5, -1.25, 2.0]),
    "one": np.array(7),
}
CAPTURES = {
    "doc": Capture("doc", DType.I32, 1),
    "seen": Capture("seen", DType.BOOL, 2),
    "bias": Capture("bias", DType.F32, 1),
    "one": Capture("one", DType.I64, 0),
}
# No index may grow past this, where int64 and Python's integers would part.
LARGEST = 2**40


@st.composite
def trees(draw: st.DrawFn, type: Type, depth: int = 3, nan: bool = True) -> Tree:
    """Trees of one type. Shifts are by small constants, as larger ones have no use nor bound."""
    return draw(_forms(type, depth, nan))


@cache
def _forms(type: Type, depth: int, nan: bool) -> st.SearchStrategy[Tree]:
    leaves = st.one_of(_constants(type, nan), *_named(type))
    if depth == 0:
        return leaves
    below = depth - 1
    loads = [
        st.tuples(st.just(Op.LOAD), st.just(c.name), *[trees(I, min(below, 1), nan)] * c.rank)
        for c in CAPTURES.values()
        if c.dtype.type is type
    ]
    calls = [
        st.tuples(st.just(op), *(trees(t, below, nan) for t in operands))
        for op in OPS
        for operands in _signatures(op, type)
    ]
    shifts = [
        st.tuples(st.just(op), trees(I, below, nan), _constants(I, nan))
        for op in (Op.SHL, Op.SHR)
        if type is I
    ]
    return st.one_of(leaves, *loads, *calls, *shifts)


def _constants(type: Type, nan: bool) -> st.SearchStrategy[Tree]:
    values: dict[Type, st.SearchStrategy[Any]] = {
        B: st.booleans(),
        I: st.integers(-3, 9),
        F: st.floats(-4, 4) | st.sampled_from([0.0, -0.0, 1e-5, 1e16, math.inf, -math.inf]),
    }
    if nan:
        values[F] |= st.just(math.nan)
    return st.tuples(st.just(Op.CONST), values[type])


def _named(type: Type) -> list[st.SearchStrategy[Tree]]:
    names = [name for name, t in TYPES.items() if t is type]
    ops = {name: Op.PARAM if name in VALUES else Op.VAR for name in names}
    return [st.sampled_from([(ops[name], name) for name in names])] if names else []


def _signatures(op: Op, type: Type) -> list[tuple[Type, ...]]:
    """The operand types with which `op` has this type, mixed ones included."""
    row = OPS[op]
    if op in LEAVES or op in (Op.LOAD, Op.SHL, Op.SHR) or row.result not in (None, type):
        return []
    mixed = [(I, F), (F, I)]
    match row.operands:
        case Operands.BOOLS:
            return [(B,) * row.arity]
        case Operands.INDICES:
            return [(I,) * row.arity]
        case Operands.FLOATS:
            return [(F,) * row.arity, (I,) * row.arity]
        case Operands.NUMBERS | Operands.SAME:
            pairs = [(I,) * row.arity, (F,) * row.arity, *(mixed if row.arity == 2 else [])]
            if row.operands is Operands.SAME:
                pairs.append((B, B))
            return [p for p in pairs if row.result is type or _join(p) is type]
        case _:
            pairs = [(type, type), *(mixed if type is F else [])]
            return [(B, *p) for p in pairs]


def _join(types: tuple[Type, ...]) -> Type:
    return F if F in types else types[-1]


def build(tree: Tree) -> Expr:
    """The node of a tree, by the smart constructors."""
    op, *rest = tree
    match op:
        case Op.CONST:
            return const(rest[0])
        case Op.VAR:
            return var(rest[0])
        case Op.PARAM:
            return param(rest[0], TYPES[rest[0]])
        case Op.LOAD:
            return load(CAPTURES[rest[0]], *map(build, rest[1:]))
    return apply(op, *map(build, rest))


@st.composite
def expressions(draw: st.DrawFn, type: Type, depth: int = 3) -> Expr:
    """Nodes of one type; a tree with a division by the constant zero is drawn again."""
    try:
        return build(draw(_forms(type, depth, nan=True)))
    except TypeMismatchError:
        reject()


class Undefined(Exception):
    """The oracle has no answer: a domain error, or an index too large to compare."""


def value_of(tree: Tree | Expr, variables: dict[str, Any]) -> Any:
    """What a tree or a node computes, by plain Python numbers.

    Raises:
        Undefined: Python raises for these values.
    """
    if isinstance(tree, Expr):
        rest: list[Any] = list(tree.args)
        op = tree.op
        if op in LEAVES:
            rest = [tree.attribute]
        elif op is Op.LOAD:
            rest = [tree.attribute.name, *rest]
    else:
        op, *rest = tree
    match op:
        case Op.CONST:
            return rest[0]
        case Op.VAR | Op.PARAM:
            return (variables | VALUES)[rest[0]]
        case Op.LOAD:
            array = VALUES[rest[0]]
            indices = [value_of(i, variables) for i in rest[1:]]
            clipped = [min(max(i, 0), n - 1) for i, n in zip(indices, array.shape, strict=True)]
            return array[tuple(clipped)].item()
    try:
        value = SCALAR[op](*(value_of(a, variables) for a in rest))
    except (ArithmeticError, ValueError) as error:
        raise Undefined from error
    if isinstance(value, int) and abs(value) > LARGEST:
        raise Undefined
    return value


# min and max of a NaN depend on the order in Python, so that none is drawn.
any_tree = st.sampled_from(list(Type)).flatmap(lambda t: trees(t, 3, nan=False))


def expected_of(tree: Tree, point: dict[str, Any]) -> tuple[Expr, Any]:
    """The expression of a drawn tree and its value by Python; a case without one is not taken."""
    try:
        expected = value_of(tree, point)
        expr = build(tree)
    except (Undefined, TypeMismatchError):
        reject()
    return expr, expected


def equal(a: Any, b: Any) -> bool:
    """Are two numbers equal, where every NaN equals every other?"""
    return a == b or (a != a and b != b)


points = st.fixed_dictionaries(
    {
        "b": st.integers(0, 2),
        "h": st.integers(0, 7),
        "q": st.integers(0, 40),
        "kv": st.integers(0, 40),
        "score": st.floats(-8, 8),
    }
)
