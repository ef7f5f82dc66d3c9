"""The state of one traced call: decisions on symbolic conditions, names of captures, spans.

A mod is run once for each path through its branches; `paths.py` chooses the paths. This file
answers what the running call asks: which way does this condition go, what is this captured value
called, where in the user's source are we. It builds no operators: that is `symbolic.py`.
"""

from __future__ import annotations

import keyword
import sys
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from flexdsl.errors import BranchError, FlexdslError, Span, UnsupportedError
from flexdsl.ir import MOD_VARIABLES, OPS, Expr, Op, Type, apply, params_of

if TYPE_CHECKING:
    from flexdsl.frontend.watch import Watch

# Both bounds are far above what masks in the literature need; they end loops on a condition.
MAX_DECISIONS = 128
MAX_PATHS = 256

_RESERVED = {*MOD_VARIABLES, *(i.symbol for i in OPS.values()), "inf", "nan", "true", "false"}

ACTIVE: ContextVar[Tracer | None] = ContextVar("flexdsl_tracer", default=None)


class Baked(BaseException):
    """A parameter's value decides the structure of the kernel, so trace again with it constant.

    A BaseException, so that a user's `except Exception` does not stop it.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        super().__init__(names)


@dataclass
class Tracer:
    """What one call of a mod asks and leaves behind.

    Attributes:
        watch: what the call reads of the user's variables.
        decisions: the conditions met so far on this path and the way each one went.
        values: number or tensor of each parameter and capture, by its name in the expression.
        names: the name of each captured thing, by the identity of what holds it.
        alive: what is known by its identity, which must not be freed meanwhile.
        spans: where each node was first made.
        derived: tensors that the function computed while it ran, by identity.
        tensor_style: the function used tensor methods or functions, so it cannot take plain ints.
    """

    watch: Watch
    decisions: list[tuple[Expr, bool]] = field(default_factory=list[tuple[Expr, bool]])
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    names: dict[tuple[int, str | None], str] = field(
        default_factory=dict[tuple[int, str | None], str]
    )
    alive: list[Any] = field(default_factory=list[Any])
    spans: dict[Expr, Span] = field(default_factory=dict[Expr, Span])
    derived: dict[int, Any] = field(default_factory=dict[int, Any])
    tensor_style: bool = False
    _position: int = 0

    def restart(self, path: list[tuple[Expr, bool]]) -> None:
        """Follow `path` from the beginning, then take every new condition as true."""
        self.decisions, self._position = list(path), 0

    def decide(self, condition: Expr) -> bool:
        """Which way `condition` goes on this path."""
        if condition.op is Op.CONST:
            return bool(condition.attribute)
        opposite = apply(Op.NOT, condition)
        for known, answer in self.decisions[: self._position]:
            if known is condition:
                return answer
            if known is opposite:
                return not answer
        if self._position == len(self.decisions):
            if len(self.decisions) >= MAX_DECISIONS:
                raise self._too_many(f"one path meets more than {MAX_DECISIONS} conditions")
            self.decisions.append((condition, True))
        known, answer = self.decisions[self._position]
        if known is not condition:
            raise self.error(
                UnsupportedError(
                    "the function took another way when it was run again",
                    why="it is run once for each branch, so it must not depend on anything else",
                    fix="a function without side effects or random numbers",
                )
            )
        self._position += 1
        return answer

    def _too_many(self, what: str) -> FlexdslError:
        return self.error(
            BranchError(
                f"this function branches without end: {what}",
                why="every way through `if`, `and`, `or` and loops becomes a part of the kernel",
                fix="a loop over a number known when the function is written, or fx.where(...)",
            )
        )

    def name_for(self, wanted: str, holder: Any, variable: str | None = None) -> str:
        """The name of a captured thing in the expression: `wanted` where that is free.

        Args:
            holder: the tensor itself, or what holds the variable (a cell, a dict, an object).
            variable: its name there; None for a tensor, which is one thing wherever it is held.
        """
        key = (id(holder), variable)
        if key not in self.names:
            reserved = keyword.iskeyword(wanted) or wanted in _RESERVED
            base = name = f"{wanted}_" if reserved else wanted
            number = 1
            while name in self.names.values():
                number += 1
                name = f"{base}_{number}"
            self.names[key] = name
            self.alive.append(holder)
        return self.names[key]

    def bake(self, expr: Expr) -> None:
        """Ask for a new trace in which the parameters of `expr` are constants, if it has any."""
        names = frozenset(str(p.attribute) for p in params_of(expr))
        if names:
            raise Baked(names)

    def record(self, expr: Expr) -> Expr:
        """`expr`, with the user's current line noted as its source."""
        if expr not in self.spans:
            frames = user_frames()
            if frames:
                self.spans[expr] = span_of(frames[0])
        return expr

    def error(self, error: FlexdslError) -> FlexdslError:
        """`error` pointing at the user's current line, and at the calls that led there."""
        spans = [span_of(f) for f in user_frames()]
        if not spans:
            return error
        return error.at(spans[0], tuple(("called from", s) for s in spans[1:]))


def current() -> Tracer:
    """The tracer of the call that is running.

    Raises:
        UnsupportedError: a symbolic value is used after the function that got it has returned.
    """
    tracer = ACTIVE.get()
    if tracer is None:
        raise UnsupportedError(
            "a symbolic value outlived the mod that it was made for",
            why="the function stored b, h, q, kv or score somewhere outside",
            fix="a function that only returns its result",
        )
    return tracer


_POSITIONS: dict[CodeType, list[tuple[int | None, int | None, int | None, int | None]]] = {}
_HIDDEN = ("flexdsl", "torch", "numpy", "functools", "operator", "contextlib")


def user_frames() -> list[FrameType]:
    """Frames of the user's code in the running trace, innermost first."""
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not ENTRY_CODE[0]:
        module = str(frame.f_globals.get("__name__", ""))
        if module.split(".")[0] not in _HIDDEN or module.startswith("flexdsl.stdlib"):
            frames.append(frame)
        frame = frame.f_back
    return frames if frame is not None else []


# The code object of the function in `paths.py` that calls the user's: frames above it are not his.
ENTRY_CODE: list[CodeType | None] = [None]


def span_of(frame: FrameType) -> Span:
    """The place of the operation that `frame` is executing."""
    code = frame.f_code
    if code not in _POSITIONS:
        _POSITIONS[code] = list(code.co_positions())
    line, _, column, end = _POSITIONS[code][frame.f_lasti // 2]
    line = line or frame.f_lineno
    start = _characters(code.co_filename, line, column or 0)
    return Span(code.co_filename, line, start, _characters(code.co_filename, line, end or 0))


def _characters(file: str, line: int, column: int) -> int:
    """`column` of a line in characters; Python counts bytes of UTF-8."""
    text = Span(file, line, 0, 0).source_line()
    if text is None or text.isascii():
        return column
    return len(text.encode()[:column].decode(errors="ignore"))


def index_type(value: int | float) -> Type:
    """The type of a parameter with this value."""
    return Type.INDEX if isinstance(value, int) else Type.FLOAT
