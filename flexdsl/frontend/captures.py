"""What a function captures: numbers become parameters, arrays become captured tensors.

A user's function is rebuilt with its captured numbers replaced by symbolic parameters, so that
changing a window changes an argument of the kernel and not the kernel. Looked into: closures, the
globals and defaults that the code uses, `functools.partial`, attributes of `self`, and the user's
own helper functions, likewise rebuilt. Nothing of the user's is modified.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from flexdsl.frontend.symbolic import Symbolic
from flexdsl.frontend.tensors import CapturedArray, is_tensor
from flexdsl.frontend.tracer import Tracer, index_type
from flexdsl.ir import param

_FOREIGN = {"torch", "numpy", "flexdsl", *sys.stdlib_module_names}


class Rebuilder:
    """Rebuilds functions for one trace.

    Args:
        trace: gets the value of each parameter and the name of each tensor.
        baked: names of parameters to leave as the numbers that they are.
    """

    def __init__(self, trace: Tracer, baked: frozenset[str]) -> None:
        self.trace, self.baked = trace, baked
        self._done: dict[int, Any] = {}

    def callable(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with everything that it captures replaced."""
        call = vars(type(function)).get("__call__")
        if isinstance(call, FunctionType) and _is_users(call):
            return self._method(call, function)
        return self._value("function", function, self)  # type: ignore[no-any-return]

    def _value(self, name: str, value: Any, holder: Any) -> Any:
        """What stands for `value`, which `holder` has in its variable `name`."""
        if is_tensor(value):
            return self._tensor(name, value)
        if hasattr(value, "item") and hasattr(value, "dtype"):
            value = value.item()  # a scalar of numpy
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._parameter(name, value, holder)
        if isinstance(value, functools.partial):
            return self._partial(value)
        if isinstance(value, MethodType) and isinstance(value.__func__, FunctionType):
            return self._method(value.__func__, value.__self__)
        if isinstance(value, FunctionType) and _is_users(value):
            return self._function(value)
        self.trace.watch.value(value)
        return value

    def _tensor(self, name: str, value: Any) -> Any:
        self.trace.name_for(name, value)
        torch = sys.modules.get("torch")
        return value if torch and isinstance(value, torch.Tensor) else CapturedArray(value)

    def _parameter(self, variable: str, value: int | float, holder: Any) -> Any:
        name = self.trace.name_for(variable, holder, variable)
        if name in self.baked:
            return value
        self.trace.values[name] = value
        return Symbolic(param(name, index_type(value)))

    def _partial(self, value: functools.partial[Any]) -> Any:
        inner = self._value("function", value.func, value.func)
        self.trace.watch.names(value.keywords, value.keywords)
        names = _argument_names(value.func)
        args = [self._value(n, a, value) for n, a in zip(names, value.args, strict=False)] + list(
            value.args[len(names) :]
        )
        keywords = {k: self._value(k, v, value) for k, v in value.keywords.items()}
        return functools.partial(inner, *args, **keywords)

    def _method(self, function: FunctionType, instance: Any) -> MethodType:
        self.trace.watch.attributes(instance, set(_global_names(function.__code__)))
        return MethodType(self._function(function), self._with_attributes(instance))

    def _with_attributes(self, instance: Any) -> Any:
        """A shallow copy of an object with the numbers and arrays among its attributes replaced."""
        if not hasattr(instance, "__dict__"):
            return instance
        twin = copy.copy(instance)
        for name, value in vars(instance).items():
            if is_tensor(value) or isinstance(value, int | float):
                twin.__dict__[name] = self._value(name, value, instance)
        return twin

    def _function(self, function: FunctionType) -> FunctionType:
        if id(function) in self._done:
            return self._done[id(function)]  # type: ignore[no-any-return]
        cells = tuple(CellType() for _ in function.__closure__ or ())
        names = set(_global_names(function.__code__))
        scope: dict[str, Any] = {}
        twin = FunctionType(function.__code__, scope, function.__name__, None, cells)
        self._done[id(function)] = twin  # before its captures, which may lead back here
        self.trace.alive.append(function)
        self.trace.watch.function(function)
        self.trace.watch.names(function.__globals__, names)
        scope.update(function.__globals__)
        for name in names & function.__globals__.keys():
            scope[name] = self._value(name, function.__globals__[name], function.__globals__)
        for name, old, new in zip(
            function.__code__.co_freevars, function.__closure__ or (), cells, strict=True
        ):
            if _filled(old):
                new.cell_contents = self._value(name, old.cell_contents, old)
        self._defaults(function, twin)
        return twin

    def _defaults(self, function: FunctionType, twin: FunctionType) -> None:
        defaults = function.__defaults__ or ()
        code = function.__code__
        names = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
        twin.__defaults__ = tuple(
            self._value(n, d, function) for n, d in zip(names, defaults, strict=True)
        )
        twin.__kwdefaults__ = {
            n: self._value(n, d, function) for n, d in (function.__kwdefaults__ or {}).items()
        }


def _filled(cell: CellType) -> bool:
    """Has the variable of the cell been assigned yet?"""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _is_users(function: Any) -> bool:
    module = str(getattr(function, "__module__", None) or "")
    root = module.split(".")[0]
    return root not in _FOREIGN or module.startswith("flexdsl.stdlib")


def _global_names(code: CodeType) -> Iterator[str]:
    """Names that the code, or code nested in it, may look up among the globals."""
    yield from code.co_names
    for nested in code.co_consts:
        if isinstance(nested, CodeType):
            yield from _global_names(nested)


def _argument_names(function: Any) -> tuple[str, ...]:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if not isinstance(code, CodeType):
        return ()
    names = code.co_varnames[: code.co_argcount]
    return names[1:] if isinstance(function, MethodType) else names
