"""Where a mod's captured tensors are held, as paths that a compiled function can follow.

`torch.compile` gives a graph the tensors that it sees being read. It cannot run the front end, so
the front end runs aside, once, and says which tensors it used; `find` looks for the variables that
hold them, and `follow` reads those variables in sight of the compiler. What decides the structure
of a mod (functions, flags, baked numbers) is listed too, so that the graph is guarded by it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from flexdsl.frontend import Traced
from flexdsl.ir import Program
from flexdsl.mod import Combination, Mod

# Each step is what kind of thing holds the next value, and where in it.
Step = tuple[str, Any]
Path = tuple[Step, ...]

_MOST_VALUES = 10_000
_FOREIGN = {"torch", "numpy", "flexdsl", *sys.stdlib_module_names}


def follow(root: Any, path: Path) -> Any:
    """The value at the end of `path`, which `torch.compile` sees being read."""
    value = root
    for kind, key in path:
        if kind == "attribute":
            value = getattr(value, key)
        elif kind == "item":
            value = value[key]
        elif kind == "global":
            value = value.__globals__[key]
        else:
            value = value.__closure__[key].cell_contents
    return value


@dataclass(frozen=True)
class Holders:
    """What a search has found.

    Attributes:
        arrays: path of each tensor and numpy array, by its identity.
        plain: path and value of what decides structure: flags, texts, baked numbers, and the name
            of each function, which stands for its code.
    """

    arrays: dict[int, Path]
    plain: tuple[tuple[Path, Any], ...]


def find(root: Callable[[], Program], program: Program) -> Holders:
    """Search what `root` reaches, nearest first.

    Args:
        root: what makes the program of a mod.
        program: what it makes now; its parameters are no part of its structure.
    """
    arrays: dict[int, Path] = {}
    plain: list[tuple[Path, Any]] = []
    seen: set[int] = set()
    queue: deque[tuple[Any, str, Path, frozenset[str]]] = deque([(root, "", (), frozenset())])
    while queue and len(seen) < _MOST_VALUES:
        value, name, path, names = queue.popleft()
        if isinstance(value, torch.Tensor | np.ndarray):
            arrays.setdefault(id(value), path)
        elif value is None or isinstance(value, bool | str):
            plain.append((path, value))
        elif isinstance(value, int | float):
            if not _is_parameter(name, program):
                plain.append((path, value))
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, FunctionType):
                plain.append(((*path, ("attribute", "__name__")), value.__name__))
                names = names | _names(value.__code__)
            queue.extend((v, n, (*path, *steps), names) for v, n, steps in _held(value, names))
    return Holders(arrays, tuple(plain))


def _held(value: Any, names: frozenset[str]) -> Iterator[tuple[Any, str, Path]]:
    """What `value` holds: each value, its name, and the steps to it from `value`.

    Args:
        names: names that the functions on the way use; no other attribute is looked at.
    """
    match value:
        case FunctionType():
            yield from _held_by_function(value)
        case MethodType():
            yield value.__func__, "", (("attribute", "__func__"),)
            own = _names(value.__func__.__code__) if hasattr(value.__func__, "__code__") else names
            yield from _attributes(value.__self__, own, (("attribute", "__self__"),))
        case partial():
            yield value.func, "", (("attribute", "func"),)
            yield value.args, "", (("attribute", "args"),)
            yield value.keywords, "", (("attribute", "keywords"),)
        case list() | tuple():
            yield from ((v, "", (("item", i),)) for i, v in enumerate(value))
        case dict():
            texts = ((k, v) for k, v in value.items() if isinstance(k, str))
            yield from ((v, k, (("item", k),)) for k, v in texts)
        case Mod():
            yield value._make, "", (("attribute", "_make"),)
        case Traced():
            yield value.function, "", (("attribute", "function"),)
        case Combination():
            yield value.mods, "", (("attribute", "mods"),)
        case Program():
            yield value.values, "", (("attribute", "values"),)
        case _:
            yield from _attributes(value, names, ())


def _held_by_function(function: FunctionType) -> Iterator[tuple[Any, str, Path]]:
    code = function.__code__
    for i, cell in enumerate(function.__closure__ or ()):
        if not _is_empty(cell):
            yield cell.cell_contents, code.co_freevars[i], (("cell", i),)
    if _is_foreign(function.__module__):
        return
    for name in sorted(_names(code) & function.__globals__.keys()):
        yield function.__globals__[name], name, (("global", name),)
    defaults = function.__defaults__ or ()
    first = code.co_argcount - len(defaults)
    for i, value in enumerate(defaults):
        steps = (("attribute", "__defaults__"), ("item", i))
        yield value, code.co_varnames[first + i], steps
    for name, value in (function.__kwdefaults__ or {}).items():
        yield value, name, (("attribute", "__kwdefaults__"), ("item", name))


def _attributes(value: Any, names: frozenset[str], steps: Path) -> Iterator[tuple[Any, str, Path]]:
    if isinstance(value, type) or _is_foreign(_module_of(value)):
        return
    held = dict(getattr(value, "__dict__", {}))
    if isinstance(value, torch.nn.Module):
        held |= {**value._modules, **value._buffers, **value._parameters}
    for name in sorted(names & held.keys()):
        yield held[name], name, (*steps, ("attribute", name))


def _module_of(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, torch.nn.Module):
        return ""  # a module of torch's own may hold parameters too
    return str(type(value).__module__)


def _is_foreign(module: str | None) -> bool:
    module = module or ""
    return module.split(".")[0] in _FOREIGN and not module.startswith("flexdsl.stdlib")


def _is_parameter(name: str, program: Program) -> bool:
    """Is a number held under `name` a parameter? Names may have been changed by a suffix."""
    values = (n for n, v in program.values.items() if isinstance(v, int | float))
    return any(
        n == name or (n.startswith(f"{name}_") and n[len(name) + 1 :].isdigit()) for n in values
    )


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _names(code: CodeType) -> frozenset[str]:
    """Names of globals and attributes that the code, or code nested in it, may look up."""
    nested = (_names(c) for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(code.co_names).union(*nested)
