"""What a mod's function can change by being called: its variables, and those of its helpers.

Looked into are closures, the globals that the code names, defaults, attributes of `self`, and the
elements of containers. What lies behind other objects, files or printing is not seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from flexdsl.mod import Mod

_DEEP = 4  # levels of containers
_MANY = 1000  # elements of a container that are looked at
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
State = dict[str, Any]


def state_of(mod: Mod) -> State:
    """What the variables that a mod's function uses hold now, by name."""
    found: State = {}
    for name, value in _variables(mod._call, set()):
        found.setdefault(name, _seen(value, _DEEP))
    return found


def changed_name(before: State, after: State) -> str | None:
    """The first variable that is not what it was."""
    return next((n for n in before if before[n] != after.get(n)), None)


def _variables(value: Any, done: set[int]) -> Iterator[tuple[str, Any]]:
    """The variables behind a callable, and behind the callables among them."""
    if id(value) in done:
        return
    done.add(id(value))
    match value:
        case Mod():
            yield from _variables(value._call, done)
        case functools.partial():
            yield from _variables(value.func, done)
            for part in (*value.args, *value.keywords.values()):
                yield from _variables(part, done)
        case MethodType():
            yield from _variables(value.__func__, done)
            yield from _attributes(value.__self__, done)
        case FunctionType():
            yield from _of_function(value, done)
        case tuple():
            for part in value:
                yield from _variables(part, done)
        case _:
            call = vars(type(value)).get("__call__")
            if isinstance(call, FunctionType):
                yield from _variables(call, done)
                yield from _attributes(value, done)


def _of_function(function: Callable[..., Any], done: set[int]) -> Iterator[tuple[str, Any]]:
    assert isinstance(function, FunctionType)
    held: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    if _is_wrapping(function):
        for value in held.values():
            yield from _variables(value, done)
        return
    names = set(_names(function.__code__)) & function.__globals__.keys()
    held |= {n: function.__globals__[n] for n in sorted(names)}
    held |= {f"default {n}": d for n, d in enumerate(function.__defaults__ or ())}
    for name, value in held.items():
        if isinstance(value, FunctionType | MethodType | functools.partial | Mod):
            yield from _variables(value, done)
        elif not isinstance(value, ModuleType | type):
            yield name, value


def _attributes(instance: Any, done: set[int]) -> Iterator[tuple[str, Any]]:
    wrapping = _is_wrapping(type(instance))
    for name, value in getattr(instance, "__dict__", {}).items():
        if wrapping:
            yield from _variables(value, done)
        else:
            yield f"self.{name}", value


def _is_wrapping(thing: Any) -> bool:
    """Is it flexdsl's own, around a user's function? Only what that uses is looked into."""
    return str(thing.__module__).startswith("flexdsl.")


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for nested in code.co_consts:
        if isinstance(nested, CodeType):
            yield from _names(nested)


def _seen(value: Any, depth: int) -> Any:
    """What can be compared later, whatever happens to the value meanwhile."""
    if isinstance(value, _PLAIN):
        return type(value), repr(value)
    if isinstance(value, torch.Tensor):
        # Inference tensors count no versions, and cannot be written to in place outside of it.
        return id(value), None if value.is_inference() else value._version
    if isinstance(value, np.ndarray):
        return value.shape, hash(value.tobytes())
    if depth == 0:
        return id(value)
    if isinstance(value, dict):
        pairs = list(value.items())[:_MANY]
        return len(value), [(_seen(k, 0), _seen(v, depth - 1)) for k, v in pairs]
    if isinstance(value, list | tuple):
        return len(value), [_seen(v, depth - 1) for v in value[:_MANY]]
    if isinstance(value, set | frozenset):
        return len(value), sorted(repr(v) for v in value)[:_MANY]
    inside = getattr(value, "__dict__", None)
    return id(value) if inside is None else (id(value), _seen(dict(inside), depth - 1))
