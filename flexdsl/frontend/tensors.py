"""torch and numpy inside a traced mod: captured tensors, their indexing, and their functions.

Functions written for torch's FlexAttention use `torch.where`, `x.clamp(...)`, `table[h, q - kv]`;
each is one row of a table here. torch is never imported: it is looked up only where the user has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from flexdsl.errors import CaptureError, FlexdslError, TypeMismatchError, UnsupportedError
from flexdsl.frontend import tracer
from flexdsl.frontend.symbolic import Symbolic, emit, floor_divide, lift, power, remainder
from flexdsl.ir import DTYPE_BY_LIBRARY_NAME, Capture, Expr, Op, Type, const, load


def is_tensor(value: Any) -> bool:
    """Is it a torch tensor or a numpy array, or a proxy of one in a trace?"""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    return (
        isinstance(value, CapturedArray)
        or (torch is not None and isinstance(value, torch.Tensor))
        or (numpy is not None and isinstance(value, numpy.ndarray))
    )


class CapturedArray:
    """A numpy array in a trace, indexed so far by `indices`; one more index a dimension.

    numpy itself would ask a symbolic index for its number, so the array is replaced by this.
    """

    def __init__(self, array: Any, indices: tuple[Any, ...] = ()) -> None:
        self.array, self.indices = array, indices
        self.dtype, self.ndim = array.dtype, len(array.shape) - len(indices)
        self.shape = tuple(array.shape[len(indices) :])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: Any) -> Any:
        return index_tensor(self.array, (*self.indices, *_as_tuple(index)))

    def _refuse(self, *_: Any) -> Any:
        raise _not_a_number(self)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refuse
    __and__ = __rand__ = __or__ = __ror__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __eq__ = __ne__ = _refuse
    __neg__ = __abs__ = __invert__ = __bool__ = _refuse
    __hash__ = object.__hash__


def _are_numbers(index: Any) -> bool:
    return all(isinstance(i, int) and not isinstance(i, bool) for i in _as_tuple(index))


def _as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def index_tensor(tensor: Any, index: tuple[Any, ...]) -> Any:
    """`tensor[index]` where an index is symbolic: a load, or a view that waits for more indices.

    Raises:
        UnsupportedError: slices, `None` or an ellipsis among the indices.
        CaptureError: the element type is not supported, or the tensor was made inside the mod.
    """
    trace = tracer.current()
    tensor = getattr(tensor, "array", tensor)
    if any(i is None or isinstance(i, slice) or i is Ellipsis or is_tensor(i) for i in index):
        raise trace.error(
            UnsupportedError(
                "a captured tensor is indexed with a slice, a tensor, None or an ellipsis",
                why="a mod computes one number for one pair",
                fix="one integer expression for each dimension, table[h, q - kv]",
            )
        )
    if len(index) < len(tensor.shape):
        return CapturedArray(tensor, index)
    try:
        indices = [_from_start(lift(i), n) for i, n in zip(index, tensor.shape, strict=False)]
        indices += [lift(i) for i in index[len(indices) :]]
        return Symbolic(trace.record(load(capture_of(tensor), *indices)))
    except TypeMismatchError as error:
        raise trace.error(error) from None


def _from_start(index: Expr, length: int) -> Expr:
    """A constant index that counts from the end, as Python has it, counted from the start."""
    value = index.attribute
    if index.op is Op.CONST and index.type is Type.INDEX and isinstance(value, int) and value < 0:
        return const(value + length)
    return index


def capture_of(tensor: Any) -> Capture:
    """The capture that stands for `tensor` in the running trace, registered under its name."""
    trace = tracer.current()
    library_name = str(tensor.dtype).removeprefix("torch.")
    dtype = DTYPE_BY_LIBRARY_NAME.get(library_name)
    if dtype is None:
        raise trace.error(
            CaptureError(
                f"a captured tensor has the dtype {library_name}",
                fix="bool, an integer type, float16, bfloat16, float32 or float64",
            )
        )
    if id(tensor) in trace.derived:
        raise trace.error(
            CaptureError(
                "a tensor computed inside the mod is indexed",
                why="it would be computed again and copied for every call",
                fix="compute it once outside and let the function capture it",
            )
        )
    name = trace.name_for("tensor", tensor)
    trace.values[name] = tensor
    return Capture(name, dtype, len(tensor.shape))


def _not_a_number(tensor: Any) -> FlexdslError:
    return tracer.current().error(
        UnsupportedError(
            f"a whole tensor of shape {tuple(tensor.shape)} stands where one number is needed",
            fix="an index for each dimension, table[h, q]",
        )
    )


def lift_scalar(value: Any) -> Expr | None:
    """A scalar of numpy as a constant, a tensor without dimensions as a load; None for others."""
    if not is_tensor(value) and not hasattr(value, "item"):
        return None
    if len(value.shape) > 0:
        raise _not_a_number(value)
    if not is_tensor(value) or id(value) in tracer.current().derived:
        return const(value.item())
    return load(capture_of(value))


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    x = x if min is None else emit(Op.MAX, x, min)
    return x if max is None else emit(Op.MIN, x, max)


def _divide(a: Any, b: Any, rounding_mode: str | None = None) -> Symbolic:
    match rounding_mode:
        case None:
            return emit(Op.DIV, a, b)
        case "floor":
            return floor_divide(a, b)
        case "trunc":
            return emit(Op.TO_INDEX, emit(Op.DIV, a, b))
    raise tracer.current().error(
        UnsupportedError(
            f"rounding_mode={rounding_mode!r} is not known", fix="None, 'floor' or 'trunc'"
        )
    )


def _as(type: Type) -> Callable[..., Symbolic]:
    """Conversion to `type`, by the rules of torch: a bool is 1 or 0, a float is cut."""

    def convert(x: Any) -> Symbolic:
        expr = lift(x)
        if expr.type is type:
            return Symbolic(expr)
        if type is Type.BOOL:
            return emit(Op.NE, x, 0)
        if expr.type is Type.BOOL:
            one, zero = (1, 0) if type is Type.INDEX else (1.0, 0.0)
            return emit(Op.WHERE, x, one, zero)
        return emit(Op.TO_FLOAT if type is Type.FLOAT else Op.TO_INDEX, x)

    return convert


def _to(x: Any, dtype: Any, *_: Any, **__: Any) -> Any:
    known = DTYPE_BY_LIBRARY_NAME.get(str(dtype).removeprefix("torch."))
    return _as(known.type)(x) if known is not None else x


def _op(op: Op) -> Callable[..., Symbolic]:
    return lambda *operands: emit(op, *operands)


_METHODS: dict[str, Callable[..., Any]] = {
    **{
        name: _op(op)
        for names, op in (
            ("add", Op.ADD),
            ("sub subtract", Op.SUB),
            ("mul multiply", Op.MUL),
            ("neg negative", Op.NEG),
            ("minimum min fmin", Op.MIN),
            ("maximum max fmax", Op.MAX),
            ("abs absolute", Op.ABS),
            ("where", Op.WHERE),
            ("lt less", Op.LT),
            ("le less_equal", Op.LE),
            ("gt greater", Op.GT),
            ("ge greater_equal", Op.GE),
            ("eq equal", Op.EQ),
            ("ne not_equal", Op.NE),
            ("logical_and", Op.AND),
            ("logical_or", Op.OR),
            ("logical_xor", Op.NE),
            ("logical_not", Op.NOT),
            ("bitwise_left_shift left_shift lshift", Op.SHL),
            ("bitwise_right_shift right_shift rshift", Op.SHR),
            ("exp", Op.EXP),
            ("exp2", Op.EXP2),
            ("log", Op.LOG),
            ("log2", Op.LOG2),
            ("sqrt", Op.SQRT),
            ("rsqrt", Op.RSQRT),
            ("sin", Op.SIN),
            ("cos", Op.COS),
            ("tanh", Op.TANH),
            ("sigmoid", Op.SIGMOID),
            ("floor", Op.FLOOR),
        )
        for name in names.split()
    },
    "and": lambda a, b: Symbolic(lift(a)) & b,
    "bitwise_and": lambda a, b: Symbolic(lift(a)) & b,
    "or": lambda a, b: Symbolic(lift(a)) | b,
    "bitwise_or": lambda a, b: Symbolic(lift(a)) | b,
    "xor": lambda a, b: Symbolic(lift(a)) ^ b,
    "bitwise_xor": lambda a, b: Symbolic(lift(a)) ^ b,
    "invert": lambda a: ~Symbolic(lift(a)),
    "bitwise_not": lambda a: ~Symbolic(lift(a)),
    "floor_divide": floor_divide,
    "floordiv": floor_divide,
    "remainder": remainder,
    "mod": remainder,
    "div": _divide,
    "divide": _divide,
    "true_divide": _divide,
    "truediv": _divide,
    "pow": power,
    "square": lambda x: emit(Op.MUL, x, x),
    "silu": lambda x: emit(Op.MUL, x, emit(Op.SIGMOID, x)),
    "relu": lambda x: emit(Op.MAX, x, 0.0),
    "clamp": _clamp,
    "clip": _clamp,
    "float": _as(Type.FLOAT),
    "double": _as(Type.FLOAT),
    "half": _as(Type.FLOAT),
    "bfloat16": _as(Type.FLOAT),
    "int": _as(Type.INDEX),
    "long": _as(Type.INDEX),
    "bool": _as(Type.BOOL),
    "to": _to,
    "type": _to,
    "astype": _to,
}
_MIRRORED = {"radd", "rsub", "rmul", "rdiv", "rtruediv", "rfloordiv", "rmod", "rpow"}
_MIRRORED |= {"rand", "ror", "rxor", "rlshift", "rrshift"}


def call_by_name(function_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function of torch or numpy, found by its name, on symbolic values.

    Raises:
        UnsupportedError: the function has no meaning in a mod, or none that is known here.
    """
    name = function_name.strip("_")
    if name == "getitem":
        return index_tensor(args[0], _as_tuple(args[1]))
    trace = tracer.current()
    trace.tensor_style = True
    if name in _MIRRORED:
        name, args = name[1:], args[::-1]
    method = _METHODS.get(name)
    if method is None:
        raise trace.error(
            UnsupportedError(
                f"'{name}' is not supported on a symbolic value",
                fix=f"one of {', '.join(sorted(_METHODS))}",
            )
        )
    return method(*args, **kwargs)


def method_by_name(value: Symbolic, name: str) -> Callable[..., Any]:
    """The method `name` of a symbolic value, for `Symbolic.__getattr__`.

    Raises:
        AttributeError: for names that Python itself probes, so that probing goes on.
        UnsupportedError: for any other unknown name.
    """
    if name not in _METHODS:
        if name.startswith("_") or tracer.ACTIVE.get() is None:
            raise AttributeError(name)
        raise tracer.current().error(
            UnsupportedError(
                f"a symbolic value has no attribute '{name}'",
                fix=f"one of {', '.join(sorted(_METHODS))}",
            )
        )
    return lambda *args, **kwargs: call_by_name(name, (value, *args), kwargs)


# Functions of tensors that read no element, properties such as `shape` among them.
_OF_SHAPES = {"__get__", "dim", "size", "stride", "numel", "__len__", "is_floating_point"}


def torch_mode() -> AbstractContextManager[Any]:
    """A context in which `tensor[symbolic]` reaches this file; does nothing without torch."""
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else _mode_class(torch)()


@cache
def _mode_class(torch: Any) -> Any:
    class Mode(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        """Hands calls with a symbolic argument over, and marks tensors that the mod computes."""

        def __torch_function__(
            self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            parts = [p for a in args for p in _as_tuple(a)] + list((kwargs or {}).values())
            if any(isinstance(p, Symbolic | CapturedArray) for p in parts):
                return call_by_name(function.__name__, args, kwargs or {})
            # An element is loaded by the kernel, not read now: it may change, or be learned.
            if function.__name__ == "__getitem__" and _are_numbers(args[1]):
                return index_tensor(args[0], _as_tuple(args[1]))
            result = function(*args, **(kwargs or {}))
            trace = tracer.current()
            if not isinstance(result, torch.Tensor):
                if function.__name__ not in _OF_SHAPES:
                    trace.watch.give_up()
                return result
            if not any(result is p for p in parts):
                trace.derived[id(result)] = result
                trace.watch.give_up()
            return result

    return Mode
