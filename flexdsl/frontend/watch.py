"""What a trace has read of the user's variables: while it stays as it was, so does the program.

A watch says "unchanged" only where everything that a function can read is known: numbers, texts and
tensors in its closure, its globals, its defaults and the attributes of its object, and likewise for
the functions that it calls. Whatever else it reads (a list, an object, a module of the user's) may
change unseen, so that such a function is traced anew for each call. Elements of captured tensors
are no part of a program and are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any

from flexdsl.frontend.tensors import is_tensor
from flexdsl.ir import Program

_ABSENT: Any = object()
_PLAIN = (type(None), int, float, complex, str, bytes, range)
# Modules whose functions give the same for the same arguments, and which nobody changes.
_STEADY = {"torch", "numpy", "flexdsl", "math", "builtins", "operator", "functools", "typing"}
# With these a function may read any variable by a name that is not in its code.
_BY_NAME = {"getattr", "vars", "globals", "locals", "eval", "exec", "__dict__", "__getattribute__"}


class Watch:
    """What one trace has read. It starts as a trace does, with nothing."""

    def __init__(self) -> None:
        self._complete = True
        self._entries: list[tuple[Mapping[str, Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._functions: list[tuple[FunctionType, Any, Any, Any]] = []
        self._programs: list[tuple[Any, Program]] = []

    def unchanged(self) -> bool:
        """Is everything as it was, so that a trace would give the same program?

        Asked at each call of `attention`: plain loops, which are the fastest.
        """
        if not self._complete:
            return False
        for held, name, value in self._entries:
            if held.get(name, _ABSENT) is not value:
                return False
        for cell, value in self._cells:
            if _contents(cell) is not value:
                return False
        for x, code, defaults, keywords in self._functions:
            if x.__code__ is not code or x.__defaults__ is not defaults:
                return False
            if x.__kwdefaults__ is not keywords:
                return False
        for owner, program in self._programs:  # noqa: SIM110
            if owner.program is not program:
                return False
        return True

    def give_up(self) -> None:
        """Something is read that may change unseen."""
        self._complete = False

    def function(self, function: FunctionType) -> None:
        """A function of the user's is run: its code and its own variables."""
        own = function.__code__, function.__defaults__, function.__kwdefaults__
        self._functions.append((function, *own))
        keywords = function.__kwdefaults__ or {}
        self._entries += [(keywords, name, value) for name, value in keywords.items()]
        self._cells += [(cell, _contents(cell)) for cell in function.__closure__ or ()]

    def names(self, held: Mapping[str, Any], names: Iterable[str]) -> None:
        """These names, which may be missing, are looked up in `held`."""
        for name in names:
            if name in _BY_NAME:
                self.give_up()
            self._entries.append((held, name, held.get(name, _ABSENT)))

    def value(self, value: Any) -> None:
        """A value is used as it is, and not replaced by a parameter or a rebuilt function."""
        if not _is_settled(value):
            self.give_up()

    def attributes(self, instance: Any, names: Iterable[str]) -> None:
        """These names may be looked up as attributes of `instance`, or of its class."""
        held = getattr(instance, "__dict__", {})
        stores = [held]
        # Where torch.nn.Module keeps what it gives as attributes.
        inner = (held.get(n) for n in ("_parameters", "_buffers", "_modules"))
        stores += [store for store in inner if isinstance(store, dict)]
        classes = (c for c in type(instance).__mro__ if _root(c.__module__) not in _STEADY)
        stores += [vars(c) for c in classes]
        for store in stores:
            self.names(store, names)
            for name in store.keys() & names:
                self.value(store[name])

    def program(self, owner: Any, program: Program) -> None:
        """The program of another mod, `owner.program`, is inlined."""
        self._programs.append((owner, program))


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _ABSENT


def _is_settled(value: Any) -> bool:
    """Does it stay as it is, but for elements of a tensor?"""
    if isinstance(value, _PLAIN) or is_tensor(value):
        return True
    if isinstance(value, tuple):
        return all(map(_is_settled, value))
    if isinstance(value, ModuleType):
        return _root(value.__name__) in _STEADY
    if isinstance(value, BuiltinFunctionType):
        owner = value.__self__ if isinstance(value.__self__, ModuleType) else type(value.__self__)
        return _root(getattr(owner, "__module__", owner.__name__)) in _STEADY
    if isinstance(value, FunctionType | type):
        return _root(value.__module__) in _STEADY
    if is_dataclass(value) and _root(type(value).__module__) in _STEADY:  # such as a grid
        frozen: bool = getattr(type(value), "__dataclass_params__").frozen  # noqa: B009
        return frozen and all(_is_settled(getattr(value, field.name)) for field in fields(value))
    return hasattr(type(value), "program")  # a mod, which is watched where it is inlined


def _root(module: str | None) -> str:
    return (module or "").split(".")[0]
