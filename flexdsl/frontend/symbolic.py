"""The symbolic value that a traced function computes with: operators that build expressions.

A `Symbolic` wraps one `Expr` of the running trace. It has the operators of Python's numbers and the
methods of a torch scalar tensor that masks in the wild use. Branching on it asks the tracer which
way to go. It holds no state of its own and means nothing outside a trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flexdsl.errors import TypeMismatchError, UnsupportedError
from flexdsl.frontend import tracer
from flexdsl.ir import Expr, Op, Type, apply, const


class Symbolic:
    """A value that is different for each pair (q, kv): an index, a float or a bool."""

    __slots__ = ("expr",)

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    def __repr__(self) -> str:
        return f"<symbolic {self.expr.type.value} {self.expr!r}>"

    def __hash__(self) -> int:
        raise _refused(
            "a symbolic value cannot be looked up in a dict or a set",
            "a captured tensor indexed with it, table[q], or a chain of `if`",
        )

    def __bool__(self) -> bool:
        condition = self.expr
        if condition.type is not Type.BOOL:
            condition = emit(Op.NE, condition, const(0)).expr
        return tracer.current().decide(condition)

    def __index__(self) -> int:
        return int(self._constant("an integer known while the function is traced"))

    __int__ = __index__
    __trunc__ = __index__

    def __float__(self) -> float:
        return float(self._constant("a number known while the function is traced"))

    def _constant(self, needed: str) -> Any:
        """A parameter is baked in and the trace begins again; any other value is refused."""
        if not self.expr.variables:
            tracer.current().bake(self.expr)
        raise _refused(
            f"{needed} is needed here, but {self.expr!r} is different for each pair",
            "fx.floor, fx.sqrt, fx.exp ... in place of int(), float() and the math module;"
            " captured_tensor[index] in place of list[index]",
        )

    # Arithmetic. `name(self, other)` and its mirror for a number on the left.
    def __add__(self, other: Any) -> Symbolic:
        return emit(Op.ADD, self, other)

    def __radd__(self, other: Any) -> Symbolic:
        return emit(Op.ADD, other, self)

    def __sub__(self, other: Any) -> Symbolic:
        return emit(Op.SUB, self, other)

    def __rsub__(self, other: Any) -> Symbolic:
        return emit(Op.SUB, other, self)

    def __mul__(self, other: Any) -> Symbolic:
        return emit(Op.MUL, self, other)

    def __rmul__(self, other: Any) -> Symbolic:
        return emit(Op.MUL, other, self)

    def __truediv__(self, other: Any) -> Symbolic:
        return emit(Op.DIV, self, other)

    def __rtruediv__(self, other: Any) -> Symbolic:
        return emit(Op.DIV, other, self)

    def __floordiv__(self, other: Any) -> Symbolic:
        return floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Symbolic:
        return floor_divide(other, self)

    def __mod__(self, other: Any) -> Symbolic:
        return remainder(self, other)

    def __rmod__(self, other: Any) -> Symbolic:
        return remainder(other, self)

    def __divmod__(self, other: Any) -> tuple[Symbolic, Symbolic]:
        return floor_divide(self, other), remainder(self, other)

    def __pow__(self, other: Any) -> Symbolic:
        return power(self, other)

    def __rpow__(self, other: Any) -> Symbolic:
        if isinstance(other, int | float) and other == 2:
            return emit(Op.EXP2, self)
        return emit(Op.EXP, emit(Op.MUL, self, emit(Op.LOG, other)))

    def __neg__(self) -> Symbolic:
        return emit(Op.NEG, self)

    def __pos__(self) -> Symbolic:
        return self

    def __abs__(self) -> Symbolic:
        return emit(Op.ABS, self)

    def __floor__(self) -> Symbolic:
        return self if self.expr.type is Type.INDEX else emit(Op.TO_INDEX, emit(Op.FLOOR, self))

    # Bitwise operators mean logic on bools, as they do on bool tensors.
    def __and__(self, other: Any) -> Symbolic:
        return _logic(Op.AND, Op.BITAND, self, other)

    def __rand__(self, other: Any) -> Symbolic:
        return _logic(Op.AND, Op.BITAND, other, self)

    def __or__(self, other: Any) -> Symbolic:
        return _logic(Op.OR, Op.BITOR, self, other)

    def __ror__(self, other: Any) -> Symbolic:
        return _logic(Op.OR, Op.BITOR, other, self)

    def __xor__(self, other: Any) -> Symbolic:
        return _logic(Op.NE, Op.BITXOR, self, other)

    def __rxor__(self, other: Any) -> Symbolic:
        return _logic(Op.NE, Op.BITXOR, other, self)

    def __invert__(self) -> Symbolic:
        tracer.current().tensor_style = True
        if self.expr.type is Type.BOOL:
            return emit(Op.NOT, self)
        return emit(Op.SUB, emit(Op.NEG, self), 1)

    def __lshift__(self, other: Any) -> Symbolic:
        return emit(Op.SHL, self, other)

    def __rlshift__(self, other: Any) -> Symbolic:
        return emit(Op.SHL, other, self)

    def __rshift__(self, other: Any) -> Symbolic:
        return emit(Op.SHR, self, other)

    def __rrshift__(self, other: Any) -> Symbolic:
        return emit(Op.SHR, other, self)

    def __lt__(self, other: Any) -> Symbolic:
        return emit(Op.LT, self, other)

    def __le__(self, other: Any) -> Symbolic:
        return emit(Op.LE, self, other)

    def __gt__(self, other: Any) -> Symbolic:
        return emit(Op.GT, self, other)

    def __ge__(self, other: Any) -> Symbolic:
        return emit(Op.GE, self, other)

    def __eq__(self, other: object) -> Symbolic:  # type: ignore[override]
        return emit(Op.EQ, self, other)

    def __ne__(self, other: object) -> Symbolic:  # type: ignore[override]
        return emit(Op.NE, self, other)

    # The protocols by which torch and numpy hand their own functions over.
    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        from flexdsl.frontend.tensors import call_by_name

        return call_by_name(function.__name__, args, kwargs or {})

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from flexdsl.frontend.tensors import call_by_name

        return call_by_name(ufunc.__name__, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from flexdsl.frontend.tensors import call_by_name

        return call_by_name(function.__name__, args, kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from flexdsl.frontend.tensors import method_by_name

        return method_by_name(self, name)


def lift(value: Any) -> Expr:
    """The expression of a symbolic value, a number, or a scalar of numpy or torch.

    Raises:
        UnsupportedError: `value` is nothing of these.
    """
    if isinstance(value, Symbolic):
        return value.expr
    if isinstance(value, bool | int | float):
        return const(value)
    from flexdsl.frontend.tensors import lift_scalar

    expr = lift_scalar(value)
    if expr is None:
        raise _refused(
            f"a value of type {type(value).__name__} stands beside a symbolic one",
            "numbers, b, h, q, kv, score, and captured tensors indexed with them",
        )
    return expr


def emit(op: Op, *operands: Any) -> Symbolic:
    """`op` of the operands as a new symbolic value, with the user's line noted.

    Raises:
        TypeMismatchError: with the user's line.
    """
    trace = tracer.current()
    args = tuple(lift(o) for o in operands)
    try:
        return Symbolic(trace.record(apply(op, *args)))
    except TypeMismatchError as error:
        raise trace.error(error) from None


def floor_divide(a: Any, b: Any) -> Symbolic:
    """`a // b` rounded down; parameters in an integer divisor become constants."""
    if Type.FLOAT in (lift(a).type, lift(b).type):
        return emit(Op.FLOOR, emit(Op.DIV, a, b))
    _bake_divisor(b)
    return emit(Op.FLOORDIV, a, b)


def remainder(a: Any, b: Any) -> Symbolic:
    """`a % b` with the sign of `b`; parameters in an integer divisor become constants."""
    if Type.FLOAT in (lift(a).type, lift(b).type):
        return emit(Op.SUB, a, emit(Op.MUL, floor_divide(a, b), b))
    _bake_divisor(b)
    return emit(Op.MOD, a, b)


def _bake_divisor(divisor: Any) -> None:
    """Division by a constant is a multiplication; by an argument it is tens of instructions."""
    expr = lift(divisor)
    if not expr.variables:
        tracer.current().bake(expr)


def power(base: Any, exponent: Any) -> Symbolic:
    """`base ** exponent` for an exponent that is 0.5, -0.5 or a whole number from 0 to 8."""
    if isinstance(exponent, Symbolic) and not exponent.expr.variables:
        tracer.current().bake(exponent.expr)
    if exponent == 0.5:
        return emit(Op.SQRT, base)
    if exponent == -0.5:
        return emit(Op.RSQRT, base)
    if isinstance(exponent, int | float) and exponent in range(9):
        product = Symbolic(const(1))
        for _ in range(int(exponent)):
            product = emit(Op.MUL, product, base)
        return product
    raise _refused(
        "a power with this exponent is not supported",
        "fx.exp(y * fx.log(x)) for a positive x, or x * x",
    )


def _logic(on_bools: Op, on_indices: Op, a: Any, b: Any) -> Symbolic:
    types = lift(a).type, lift(b).type
    if types == (Type.BOOL, Type.BOOL):
        return emit(on_bools, a, b)
    if Type.BOOL in types:
        sign = {Op.BITAND: "&", Op.BITOR: "|", Op.BITXOR: "^"}[on_indices]
        raise tracer.current().error(
            TypeMismatchError(
                f"'{sign}' stands between a bool and a number: {lift(a)!r}, {lift(b)!r}",
                why=f"in Python '{sign}' binds tighter than a comparison:"
                f" `a {sign} b % 2 == 0` means `(a {sign} (b % 2)) == 0`",
                fix=f"parentheses, `a {sign} (b % 2 == 0)`, or `and`, `or`, `not`",
            )
        )
    return emit(on_indices, a, b)


def _refused(what: str, fix: str) -> UnsupportedError:
    error = tracer.current().error(UnsupportedError(what, fix=fix))
    assert isinstance(error, UnsupportedError)
    return error
