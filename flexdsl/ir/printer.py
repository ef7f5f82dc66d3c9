"""Expression -> text form, with the parentheses that the one precedence table asks for.

The text reads back (`frontend/text.py`) to the same node. A conversion of an index to a float that
the constructors would insert by themselves is not printed.
"""

from __future__ import annotations

import math

from flexdsl.ir.expr import Capture, Expr, walk
from flexdsl.ir.ops import ATOM, CONDITIONAL, OPS, OR, UNARY, Op, Operands
from flexdsl.ir.types import Type

_Text = tuple[str, int]  # text and the precedence of its outermost operator


def print_expr(expr: Expr) -> str:
    """`expr` in the text form, on one line."""
    done: dict[Expr, _Text] = {}
    for node in walk(expr):
        done[node] = _print_node(node, done)
    return done[expr][0]


def _print_node(node: Expr, done: dict[Expr, _Text]) -> _Text:
    info = OPS[node.op]
    match node.op:
        case Op.CONST:
            return _print_constant(node)
        case Op.VAR | Op.PARAM:
            return str(node.attribute), ATOM
        case Op.LOAD:
            assert isinstance(node.attribute, Capture)
            indices = ", ".join(done[a][0] for a in node.args)
            return f"{node.attribute.name}[{indices}]", ATOM
        case Op.WHERE:
            condition, a, b = (done[arg] for arg in (node.args[0], *_shown(node)[1:]))
            text = f"{_at(a, OR)} if {_at(condition, OR)} else {_at(b, CONDITIONAL)}"
            return text, CONDITIONAL
    args = [done[a] for a in _shown(node)]
    if info.precedence == 0:
        return f"{info.symbol}({', '.join(text for text, _ in args)})", ATOM
    if info.arity == 1:
        space = " " if info.symbol.isalpha() else ""
        return f"{info.symbol}{space}{_at(args[0], info.precedence)}", info.precedence
    # Left associative: the right operand needs parentheses at the same strength, and a comparison
    # needs them on both sides, since Python chains comparisons.
    chained = info.result is Type.BOOL and info.operands is not Operands.BOOLS
    left = _at(args[0], info.precedence + chained)
    return f"{left} {info.symbol} {_at(args[1], info.precedence + 1)}", info.precedence


def _print_constant(node: Expr) -> _Text:
    value = node.attribute
    if isinstance(value, bool):
        return str(value), ATOM
    assert isinstance(value, int | float)
    negative = math.copysign(1.0, value) < 0 and not math.isnan(value)
    return repr(value), UNARY if negative else ATOM


def _at(text: _Text, precedence: int) -> str:
    """The text, in parentheses where it binds looser than `precedence`."""
    return text[0] if text[1] >= precedence else f"({text[0]})"


def _shown(node: Expr) -> tuple[Expr, ...]:
    """The operands as they are printed, without the conversions that come back by themselves."""
    operands = OPS[node.op].operands
    args = node.args
    if operands is Operands.FLOATS:
        return tuple(_unconverted(a) for a in args)
    if operands in (Operands.NUMBERS, Operands.SAME, Operands.SELECT) and len(args) >= 2:
        *head, a, b = args
        if _converted(a) and not _converted(b):
            return (*head, _unconverted(a), b)
        if _converted(b) and not _converted(a):
            return (*head, a, _unconverted(b))
    return args


def _converted(node: Expr) -> bool:
    return node.op is Op.TO_FLOAT


def _unconverted(node: Expr) -> Expr:
    return node.args[0] if _converted(node) else node
