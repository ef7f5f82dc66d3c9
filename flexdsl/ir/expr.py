"""The node of an expression: frozen and interned, so that equality is identity.

    Expr = Const(value)                     bool, int or float
         | Var(name)                        b, h, q, kv: index; score: float
         | Param(name, type)                a captured scalar: index or float
         | Load(capture, index, ...)        an element of a captured tensor, one index a dimension
         | Op(operand, ...)                 every other op of `ops.py`

Nodes are made by the smart constructors of `construct.py`, which check types and simplify; only
they and this file call `intern`. Spans are not here: one node may come from several places.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flexdsl.errors import UnsupportedError
from flexdsl.ir.ops import Op
from flexdsl.ir.types import DType, Type

Scalar = bool | int | float


@dataclass(frozen=True, slots=True)
class Capture:
    """A captured tensor as an expression sees it. Its contents and lengths are bound at a call."""

    name: str
    dtype: DType
    rank: int


Attribute = Scalar | str | Capture | None


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Expr:
    """One interned node.

    Attributes:
        op: what it computes.
        args: operands.
        attribute: the value of a constant, the name of a variable or parameter, the `Capture` of a
            load, else None.
        type: type of the value.
        variables: names of the variables that the value depends on.
        loads: does the value depend on a captured tensor?
    """

    op: Op
    args: tuple[Expr, ...]
    attribute: Attribute
    type: Type
    variables: frozenset[str]
    loads: bool

    def __bool__(self) -> bool:
        raise UnsupportedError(
            "an expression has no truth value",
            why="a node stands for all pairs at once; only a traced function may branch on it",
            fix="a comparison with `is`: equal expressions are one node",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return intern, (self.op, self.args, self.attribute, self.type)

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Expr:
        return self

    def __repr__(self) -> str:
        from flexdsl.ir.printer import print_expr

        return print_expr(self)


_NONE = frozenset[str]()
_NODES: weakref.WeakValueDictionary[tuple[Any, ...], Expr] = weakref.WeakValueDictionary()


def intern(op: Op, args: tuple[Expr, ...], attribute: Attribute, type: Type) -> Expr:
    """The one node with these fields. Checks nothing: see `construct.py`."""
    # hex tells 0.0 from -0.0 and makes nan equal to itself; the type tells 1 from True and 1.0.
    label = attribute.hex() if isinstance(attribute, float) else attribute
    key = (op, args, label, type)
    node = _NODES.get(key)
    if node is None:
        variables = _NONE.union(*[a.variables for a in args])
        if op is Op.VAR:
            variables = frozenset({str(attribute)})
        loads = op is Op.LOAD or True in [a.loads for a in args]
        node = Expr(op, args, attribute, type, variables, loads)
        _NODES[key] = node
    return node


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every node below `roots` once, operands before the nodes that use them."""
    seen: set[Expr] = set()
    stack: list[Expr] = []
    for root in roots:
        if root not in seen:
            stack.append(root)
        while stack:
            node = stack[-1]
            for arg in node.args:
                if arg not in seen:
                    stack.append(arg)
                    break
            else:
                seen.add(stack.pop())
                yield node


# Asked about the same few programs many times in each call of attention.
@lru_cache(maxsize=512)
def captures_of(expr: Expr) -> tuple[Capture, ...]:
    """The captured tensors that `expr` loads from, in order of first use."""
    found = {n.attribute: None for n in walk(expr) if isinstance(n.attribute, Capture)}
    return tuple(c for c in found if isinstance(c, Capture))


@lru_cache(maxsize=512)
def params_of(expr: Expr) -> tuple[Expr, ...]:
    """The parameters in `expr`, in order of first use."""
    return tuple(n for n in walk(expr) if n.op is Op.PARAM)
