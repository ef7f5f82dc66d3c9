"""The verifier: every node of an expression obeys the table of ops.

Smart constructors guarantee it; tests check with it the passes that build nodes. Simplicity
is not checked, only types and shapes.
"""

from __future__ import annotations

from flexdsl.errors import InternalError
from flexdsl.ir.expr import Capture, Expr, walk
from flexdsl.ir.ops import OPS, VARIABLES, Op, Operands
from flexdsl.ir.types import Type

_SCALARS = {Type.BOOL: bool, Type.INDEX: int, Type.FLOAT: float}


def verify(expr: Expr) -> None:
    """Raise `InternalError` at the first node below `expr` that breaks a rule."""
    for node in walk(expr):
        if not _follows_rule(node):
            raise InternalError(f"ill-formed node: {node.op.value} of {node.args!r}")


def _follows_rule(node: Expr) -> bool:
    info = OPS[node.op]
    types = [a.type for a in node.args]
    match node.op:
        case Op.CONST:
            return type(node.attribute) is _SCALARS[node.type] and not types
        case Op.VAR:
            return VARIABLES.get(str(node.attribute)) is node.type and not types
        case Op.PARAM:
            return isinstance(node.attribute, str) and node.type is not Type.BOOL
        case Op.LOAD:
            capture = node.attribute
            return (
                isinstance(capture, Capture)
                and types == [Type.INDEX] * capture.rank
                and node.type is capture.dtype.type
            )
    result = info.result or types[-1]
    return len(types) == info.arity and node.type is result and _operands_fit(info.operands, types)


def _operands_fit(operands: Operands, types: list[Type]) -> bool:
    match operands:
        case Operands.LEAF:
            return not types
        case Operands.BOOLS:
            return set(types) == {Type.BOOL}
        case Operands.INDICES:
            return set(types) == {Type.INDEX}
        case Operands.FLOATS:
            return set(types) == {Type.FLOAT}
        case Operands.NUMBERS:
            return len(set(types)) == 1 and types[0] is not Type.BOOL
        case Operands.SAME:
            return len(set(types)) == 1
        case Operands.SELECT:
            return types[0] is Type.BOOL and types[1] is types[2]
