"""What is known of an index by its form alone, whatever the ranges of its values."""

from __future__ import annotations

from flexdsl.ir import Capture, DType, Expr, Op, Type


def is_non_negative(node: Expr) -> bool:
    """Is the index `node` at least 0? Positions and heads are."""
    match node.op:
        case Op.VAR:
            return node.type is Type.INDEX
        case Op.CONST:
            return isinstance(node.attribute, int) and node.attribute >= 0
        case Op.ADD | Op.MUL | Op.MIN | Op.FLOORDIV | Op.BITAND | Op.SHR:
            return all(is_non_negative(a) for a in node.args)
        case Op.MAX:
            return any(is_non_negative(a) for a in node.args)
        case Op.MOD:
            return is_positive(node.args[1])
        case Op.ABS:
            return True
        case Op.LOAD:
            return isinstance(node.attribute, Capture) and node.attribute.dtype is DType.U8
    return False


def is_positive(node: Expr) -> bool:
    """Is `node` a constant above 0?"""
    return node.op is Op.CONST and isinstance(node.attribute, int) and node.attribute > 0


def power_of_two(node: Expr) -> int | None:
    """n where the positive constant `node` is 2**n, and n places are less than 32 bits have."""
    value = node.attribute
    assert isinstance(value, int)
    return value.bit_length() - 1 if value & (value - 1) == 0 and value < 2**31 else None
