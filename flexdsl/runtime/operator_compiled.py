"""Attention inside `torch.compile`: how a graph gets at the mods' programs and values.

The program's text is a constant of the graph, made once while the graph is built; captured tensors
are inputs of the graph, read from where the mod's function reads them (`operator_paths.py`); the
numbers are read by an operator each time the graph runs, so that a window may change without a new
graph. That operator also traces the mod again, as every call without a compiler does, and refuses
to run a graph that was made for another program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.errors import ArgumentError, BackendError, CaptureError
from flexdsl.ir import Kind, Program
from flexdsl.mod import EARLY, LIVE, Mod, as_mod, refuse_inside_a_graph
from flexdsl.runtime import bind, operator
from flexdsl.runtime.operator_paths import find, follow
from flexdsl.runtime.operator_programs import numbers_of, text_of

_F = TypeVar("_F", bound=Callable[..., Any])


def run_aside(function: _F) -> _F:
    """A function that the compiler runs, in place of tracing into it, as a constant of the graph.

    An error in it is shown as it is. It is what `torch.compiler.assume_constant_result` does, which
    imports the compiler for it: a second or more of the first call of those that compile nothing.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


run_aside(refuse_inside_a_graph)

while EARLY:
    EARLY.pop().open()


@dataclass(frozen=True)
class Reading:
    """A mod as a graph has it.

    Attributes:
        text: of the program without values; "" for none.
        captures: tensors in order of first use, by name.
        numbers: int64 on the CPU.
    """

    text: str
    captures: dict[str, Tensor]
    numbers: Tensor


@torch.library.custom_op(
    "flexdsl::numbers", mutates_args=(), schema="(Tensor handle, str text, int count) -> Tensor"
)
def numbers(handle: Tensor, text: str, count: int) -> Tensor:
    """The numbers that a mod captures as the graph runs, int64 [count] on the CPU.

    Raises:
        BackendError: the mod is gone, or computes something else by now.
    """
    make = LIVE.get(int(handle))
    program = None if make is None else make()
    if program is None or text_of(program) != text:
        now = "is gone" if program is None else f"is now {text_of(program)}"
        raise BackendError(
            f"a compiled function was made for the mod {text}, which {now}",
            why="it changed in a way that torch.compile could not see",
            fix="torch.compiler.reset() after the change",
        )
    return numbers_of((program,))


@numbers.register_fake
def _(handle: Tensor, text: str, count: int) -> Tensor:
    return handle.new_empty((count,))


@run_aside
def _is_exporting() -> bool:
    """Asked aside: dynamo of torch 2.11 has its own answer, and says yes in every graph."""
    return torch.compiler.is_exporting()


def attention(
    mask: Any,
    score: Any,
    scale: float,
    q_offset: int,
    backend: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> tuple[Tensor, Tensor]:
    """Output and lse of a call, as the compiler traces it."""
    if backend == "reference":
        _refuse_reference()
    of_mask = read(mask, Kind.MASK, q.device)
    of_score = read(score, Kind.SCORE, q.device)
    bind.check_learned(of_mask.captures, of_score.captures)
    captures = [*of_mask.captures.values(), *of_score.captures.values()]
    numbers = torch.cat([of_mask.numbers, of_score.numbers])
    texts = of_mask.text, of_score.text
    out, lse = operator.attention(
        q, k, v, captures, numbers, *texts, scale, q_offset, [0, 0], backend
    )
    return out, lse


def read(value: Any, kind: Kind, device: torch.device) -> Reading:
    """Read the mask or score of a call in sight of the compiler.

    Raises:
        ArgumentError: it is a plan, or a function that captures something.
        CaptureError: a captured tensor is elsewhere, or cannot be reached.
    """
    if value is None:
        return Reading("", {}, _words(()))
    if isinstance(value, BlockPlan):
        _refuse_plan()
    if not isinstance(value, Mod):
        if isinstance(value, MethodType) or _has_closure(value):
            _refuse_function(kind)
        text, words = _read_aside(value, kind)
        return Reading(text, {}, _words(words))
    as_mod(value, kind)
    text, name, words, paths, plain = _recipe(value._make)
    for path, known in plain:
        if follow(value._make, path) != known:
            raise CaptureError(
                f"{name} captures something else by now",
                why="a compiled function has found the captures of its mods once",
                fix="torch.compiler.reset(), or a mod made anew",
            )
    captures = {n: _tensor(follow(value._make, path), device) for n, path in paths}
    for n, tensor in captures.items():
        bind.check_device(n, name, tensor, device)
    if _is_exporting():
        return Reading(text, captures, _words(words))
    return Reading(text, captures, numbers(value.handle, text, len(words)))


def _has_closure(value: Any) -> bool:
    return isinstance(value, FunctionType) and len(value.__code__.co_freevars) > 0


@run_aside
def _refuse_reference() -> None:
    raise BackendError(
        "backend 'reference' does not run under torch.compile",
        why="it asks the user's function about every pair",
        fix="backend='auto', or the call outside the compiled function",
    )


@run_aside
def _refuse_plan() -> None:
    raise ArgumentError(
        "a plan is the mask in a compiled function",
        why="it holds what its mask captured, which would be constants of the graph",
        fix="the mod itself; for tiles chosen at run time one that reads them where they are kept,"
        " such as self.blocks[b, h, q // 128, kv // 128] and q >= kv",
    )


@run_aside
def _refuse_function(kind: Kind) -> None:
    raise ArgumentError(
        f"a plain function that captures something is the {kind.value} in a compiled function",
        why="its values would be constants of the graph, and changes of them missed",
        fix=f"fx.{kind.value}_mod(function), made outside and used there or passed as an argument",
    )


def _words(words: tuple[int, ...]) -> Tensor:
    return torch.tensor(words, dtype=torch.int64, device="cpu")


def _tensor(value: Any, device: torch.device) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value).to(device)


@run_aside
def _recipe(make: Callable[[], Program]) -> tuple[Any, ...]:
    """Text, name, numbers, paths of captures by name, and what the structure depends on."""
    program = make()
    holders = find(make, program)
    paths = []
    for name, value in bind.captured(program).items():
        if id(value) not in holders.arrays:
            raise CaptureError(
                f"torch.compile cannot reach {name}, which {program.name} captures",
                why="it must be a variable or an attribute that the function itself uses",
                fix=f"a closure, a global, or self.{name}, a parameter or buffer of a module",
            )
        paths.append((name, holders.arrays[id(value)]))
    words = tuple(numbers_of((program,)).tolist())
    return text_of(program), program.name, words, tuple(paths), holders.plain


@run_aside
def _read_aside(value: Any, kind: Kind) -> tuple[str, tuple[int, ...]]:
    """Text and numbers of a text, or of a function that captures nothing."""
    program = as_mod(value, kind).program
    if not isinstance(value, str) and program.values:
        _refuse_function(kind)
    if bind.captured(program):
        bind.with_tensors(program, torch.device("cpu"))
    return text_of(program), tuple(numbers_of((program,)).tolist())
