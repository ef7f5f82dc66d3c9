"""Smart constructors: the only way to make a node. They check types, promote and simplify.

A constructor given the operands of an existing node returns that node, so that text printed from an
expression builds the same expression. Rules of simplification are in `rules.py`.
"""

from __future__ import annotations

from functools import lru_cache

from flexdsl.errors import TypeMismatchError
from flexdsl.ir.expr import Capture, Expr, Scalar, intern
from flexdsl.ir.ops import OPS, VARIABLES, Op, Operands
from flexdsl.ir.rules import simplify
from flexdsl.ir.types import Type

REMEMBERED = 1 << 14  # most recent results of `apply`, some hundred bytes each
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def const(value: Scalar) -> Expr:
    """A constant of the type of `value`: bool, index or float."""
    if isinstance(value, bool):
        return intern(Op.CONST, (), value, Type.BOOL)
    if isinstance(value, int):
        if not INT64_MIN <= value <= INT64_MAX:
            raise TypeMismatchError(
                f"the integer {value} does not fit in 64 bits",
                fix="a smaller number, or a float such as float('inf') for 'no bound'",
            )
        return intern(Op.CONST, (), value, Type.INDEX)
    return intern(Op.CONST, (), float(value), Type.FLOAT)


def var(name: str) -> Expr:
    """The variable `name`: one of b, h, q, kv, score."""
    return intern(Op.VAR, (), name, VARIABLES[name])


def param(name: str, type: Type) -> Expr:
    """A captured scalar, which reaches the kernel as an argument."""
    return intern(Op.PARAM, (), name, type)


def load(capture: Capture, *indices: Expr) -> Expr:
    """The element of `capture` at `indices`, one for each of its dimensions."""
    if len(indices) != capture.rank:
        raise TypeMismatchError(
            f"{capture.name} has {capture.rank} dimensions, but {len(indices)} indices are given",
            fix=f"{capture.name}[{', '.join('ijklmn'[: capture.rank])}] with one index a dimension",
        )
    for index in indices:
        if index.type is not Type.INDEX:
            raise TypeMismatchError(
                f"an index of {capture.name} is a {index.type.value}, not an integer",
                fix="an integer expression of b, h, q and kv",
            )
    return intern(Op.LOAD, indices, capture, capture.dtype.type)


def apply(op: Op, *args: Expr) -> Expr:
    """`op` of `args`, checked, promoted and simplified.

    Raises:
        TypeMismatchError: the op does not take operands of these types.
    """
    return _apply(op, args)


# Mods are traced and planned again for every call, and ask for the same nodes each time.
@lru_cache(maxsize=REMEMBERED)
def _apply(op: Op, args: tuple[Expr, ...]) -> Expr:
    """`apply`, remembered: a node depends on nothing but these."""
    args = _coerce(op, args)
    simpler = simplify(op, args, apply)
    if simpler is not None:
        return simpler
    return intern(op, args, None, OPS[op].result or args[-1].type)


def _coerce(op: Op, args: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The operands in the types that `op` takes; an index becomes a float beside a float."""
    wanted = OPS[op].operands
    types = {a.type for a in (args[1:] if wanted is Operands.SELECT else args)}
    match wanted:
        case Operands.BOOLS:
            if types != {Type.BOOL}:
                raise _mismatch(op, args, "a comparison on each side, such as (kv % 2 == 0)")
            return args
        case Operands.INDICES:
            if types != {Type.INDEX}:
                raise _mismatch(op, args, "integers; int(x) cuts a float toward zero")
            return args
        case Operands.FLOATS:
            if Type.BOOL in types:
                raise _mismatch(op, args, "where(condition, 1.0, 0.0) for a number from a bool")
            return tuple(_to_float(a) for a in args)
        case Operands.NUMBERS:
            if Type.BOOL in types:
                raise _mismatch(op, args, "where(condition, 1, 0) for a number from a bool")
            return tuple(_to_float(a) for a in args) if Type.FLOAT in types else args
        case Operands.SAME | Operands.SELECT:
            if wanted is Operands.SELECT and args[0].type is not Type.BOOL:
                raise _mismatch(op, args, "a comparison as the condition, such as x != 0")
            if len(types) == 1:
                return args
            if Type.BOOL in types:
                raise _mismatch(op, args, "two bools or two numbers; parenthesise comparisons")
            return tuple(a if a.type is Type.BOOL else _to_float(a) for a in args)
        case Operands.LEAF:
            raise TypeMismatchError(
                f"{op.value} takes no operands", fix="const, var, param or load"
            )


def _to_float(arg: Expr) -> Expr:
    return apply(Op.TO_FLOAT, arg) if arg.type is Type.INDEX else arg


def _mismatch(op: Op, args: tuple[Expr, ...], fix: str) -> TypeMismatchError:
    given = " and ".join(f"{_article(a.type)} ({a!r})" for a in args)
    return TypeMismatchError(
        f"'{OPS[op].symbol}' does not take {given}",
        why=f"it is {OPS[op].doc}, of {OPS[op].operands.value}",
        fix=fix,
    )


def _article(type: Type) -> str:
    return f"an {type.value}" if type is Type.INDEX else f"a {type.value}"
