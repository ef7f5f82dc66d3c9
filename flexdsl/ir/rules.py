"""Rewrite rules that the smart constructors apply: constant folding and plain identities.

A rule sees one op and its operands and answers with a simpler expression or None. No rule changes a
value, a NaN included; what is true of integers only is guarded. No rule looks at the ranges of
variables: that is the analysis.
"""

from __future__ import annotations

from collections.abc import Callable

from flexdsl.errors import TypeMismatchError
from flexdsl.ir.expr import Expr, intern
from flexdsl.ir.ops import NEGATED, OPS, Op
from flexdsl.ir.quotients import join_digits, simplify_quotient
from flexdsl.ir.scalar import SCALAR
from flexdsl.ir.types import Type

Make = Callable[..., Expr]
Args = tuple[Expr, ...]
Rule = Callable[[Op, Args, Make], Expr | None]


def simplify(op: Op, args: Args, make: Make) -> Expr | None:
    """What `op` of `args` simplifies to, or None where it is simple already.

    Args:
        make: the constructor to build new nodes with, `construct.apply`.

    Raises:
        TypeMismatchError: a constant operand for which the op has no value.
    """
    _check_constant(op, args)
    folded = _fold(op, args)
    if folded is not None:
        return folded
    rule = _RULES.get(op)
    return rule(op, args, make) if rule else None


def _check_constant(op: Op, args: Args) -> None:
    last = args[-1]
    if op in (Op.FLOORDIV, Op.MOD) and _is(last, 0):
        raise TypeMismatchError("division by the constant zero", fix="another divisor")
    if op in (Op.SHL, Op.SHR) and last.op is Op.CONST and last.attribute not in range(64):
        raise TypeMismatchError(
            f"a shift by {last.attribute}", why="integers have 64 bits", fix="a shift by 0 to 63"
        )


def _fold(op: Op, args: Args) -> Expr | None:
    for arg in args:
        if arg.op is not Op.CONST:
            return None
    try:
        value = SCALAR[op](*(a.attribute for a in args))
    except ZeroDivisionError as error:
        raise TypeMismatchError("division by the constant zero", fix="another divisor") from error
    except (ValueError, OverflowError):
        return None  # left to the kernel, where the float is infinite or no number
    type = OPS[op].result or args[-1].type
    if type is Type.INDEX and not -(2**63) <= value < 2**63:
        raise TypeMismatchError(
            f"the constant {value} does not fit in 64 bits", fix="smaller numbers, or floats"
        )
    return intern(Op.CONST, (), value, type)


def _is(arg: Expr, value: bool | int | float) -> bool:
    return arg.op is Op.CONST and arg.attribute == value


def _bool(value: bool) -> Expr:
    return intern(Op.CONST, (), value, Type.BOOL)


def _zero() -> Expr:
    return intern(Op.CONST, (), 0, Type.INDEX)


def _negation(a: Expr, b: Expr) -> bool:
    """Is one exactly the other's negation, by its form?"""
    for x, y in ((a, b), (b, a)):
        if x.op is Op.NOT and x.args[0] is y:
            return True
    indices = a.op in NEGATED and a.args[0].type is Type.INDEX
    return indices and b.op is NEGATED[a.op] and a.args == b.args


def _and_or(op: Op, args: Args, make: Make) -> Expr | None:
    a, b = args
    neutral = op is Op.AND
    for x, y in ((a, b), (b, a)):
        if _is(x, neutral):
            return y
        if _is(x, not neutral):
            return x
    if a is b:
        return a
    return _bool(not neutral) if _negation(a, b) else None


def _not(op: Op, args: Args, make: Make) -> Expr | None:
    (a,) = args
    if a.op is Op.NOT:
        return a.args[0]
    if a.op in NEGATED and a.args[0].type is not Type.FLOAT:
        return make(NEGATED[a.op], *a.args)
    return None


def _compare(op: Op, args: Args, make: Make) -> Expr | None:
    a, b = args
    if a is b and a.type is not Type.FLOAT:
        return _bool(op in (Op.LE, Op.GE, Op.EQ))
    if a.type is Type.BOOL:
        for x, y in ((a, b), (b, a)):
            if x.op is Op.CONST:
                return y if (op is Op.EQ) == bool(x.attribute) else make(Op.NOT, y)
    return None


def _add(op: Op, args: Args, make: Make) -> Expr | None:
    a, b = args
    for x, y in ((a, b), (b, a)):
        if _is(x, 0):
            return y
    if a.type is Type.INDEX and b.op is Op.CONST and a.op is Op.ADD and a.args[1].op is Op.CONST:
        return make(Op.ADD, a.args[0], make(Op.ADD, a.args[1], b))
    return join_digits(a, b, make) if a.type is Type.INDEX else None


def _sub(op: Op, args: Args, make: Make) -> Expr | None:
    a, b = args
    if _is(b, 0):
        return a
    return _zero() if a is b and a.type is Type.INDEX else None


def _mul(op: Op, args: Args, make: Make) -> Expr | None:
    a, b = args
    for x, y in ((a, b), (b, a)):
        if _is(x, 1):
            return y
        if _is(x, 0) and x.type is Type.INDEX:
            return x
    return None


def _quotient(op: Op, args: Args, make: Make) -> Expr | None:
    if _is(args[1], 1):
        return _zero() if op is Op.MOD else args[0]
    return None if op is Op.DIV else simplify_quotient(op, args[0], args[1], make)


def _involution(op: Op, args: Args, make: Make) -> Expr | None:
    return args[0].args[0] if args[0].op is op else None


def _idempotent(op: Op, args: Args, make: Make) -> Expr | None:
    return args[0] if len(args) == 1 and args[0].op is op else None


def _min_max(op: Op, args: Args, make: Make) -> Expr | None:
    return args[0] if args[0] is args[1] else None


def _where(op: Op, args: Args, make: Make) -> Expr | None:
    condition, a, b = args
    if condition.op is Op.CONST:
        return a if condition.attribute else b
    if a is b:
        return a
    if condition.op is Op.NOT:
        return make(Op.WHERE, condition.args[0], b, a)
    if a.type is not Type.BOOL:
        return None
    if _is(a, True) or a is condition:
        return make(Op.OR, condition, b)
    if _is(b, False) or b is condition:
        return make(Op.AND, condition, a)
    if _is(a, False):
        return make(Op.AND, make(Op.NOT, condition), b)
    if _is(b, True):
        return make(Op.OR, make(Op.NOT, condition), a)
    return _factored(condition, a, b, make)


def _factored(condition: Expr, a: Expr, b: Expr, make: Make) -> Expr | None:
    """A choice between two conditions that share a part: what Python's `and` and `or` leave.

    (x and y) or z  runs as  (y or z) if x else z.
    """
    for op, neutral in ((Op.AND, True), (Op.OR, False)):
        parts_a, parts_b = (x.args if x.op is op else (x,) for x in (a, b))
        common = next((x for x in parts_a if x in parts_b), None)
        if common is None:
            continue
        rest_a, rest_b = (
            next((x for x in parts if x is not common), _bool(neutral))
            for parts in (parts_a, parts_b)
        )
        return make(op, make(Op.WHERE, condition, rest_a, rest_b), common)
    return None


_RULES: dict[Op, Rule] = {
    Op.AND: _and_or,
    Op.OR: _and_or,
    Op.NOT: _not,
    Op.ADD: _add,
    Op.SUB: _sub,
    Op.MUL: _mul,
    Op.DIV: _quotient,
    Op.FLOORDIV: _quotient,
    Op.MOD: _quotient,
    Op.NEG: _involution,
    Op.ABS: _idempotent,
    Op.FLOOR: _idempotent,
    Op.MIN: _min_max,
    Op.MAX: _min_max,
    Op.WHERE: _where,
    **dict.fromkeys(NEGATED, _compare),
}
