"""Python function -> Program: the entry of the front end.

    watch.py     what was read, so that it is done again only after a change
    captures.py  rebuilds the function with parameters in place of captured numbers
    paths.py     runs it once for each path through its branches
    symbolic.py  builds the expression as it runs

A parameter that decides structure (a divisor, a loop count) is baked in and the trace starts again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import PurePath
from types import CodeType
from typing import Any

from flexdsl.errors import KindError, ResultError, Span
from flexdsl.frontend.captures import Rebuilder
from flexdsl.frontend.paths import run_all_paths
from flexdsl.frontend.symbolic import Symbolic
from flexdsl.frontend.tensors import torch_mode
from flexdsl.frontend.tracer import Baked, Tracer
from flexdsl.frontend.watch import Watch
from flexdsl.ir import Expr, Kind, Program, Type, captures_of, params_of, var

ARGUMENTS = {Kind.MASK: ("b", "h", "q", "kv"), Kind.SCORE: ("score", "b", "h", "q", "kv")}
_RESULT = {Kind.MASK: Type.BOOL, Kind.SCORE: Type.FLOAT}


class Traced:
    """The program of a function, traced when it is asked for after a change of what it reads.

    Args:
        function, kind, name: as in `trace`.
    """

    def __init__(self, function: Callable[..., Any], kind: Kind, name: str | None = None) -> None:
        self.function, self._kind, self._name = function, kind, name
        self._known: tuple[Program, Watch] | None = None

    def __call__(self) -> Program:
        """The program with the values captured now: the same object while nothing changes."""
        known = self._known
        if known is not None and known[1].unchanged():
            return known[0]
        program, watch = _trace(self.function, self._kind, self._name)
        self._known = program, watch
        return program


def trace(function: Callable[..., Any], kind: Kind, name: str | None = None) -> Program:
    """Trace `function` and return its program, with the values that it captures now.

    Args:
        function: a mask `(b, h, q, kv) -> bool` or a score modification
            `(score, b, h, q, kv) -> float`; any callable.
        kind: which of the two.
        name: an identifier; the function's own name where None.

    Raises:
        FlexdslError: a subclass that says what a kernel cannot compute, and where.
    """
    return _trace(function, kind, name)[0]


def _trace(function: Callable[..., Any], kind: Kind, name: str | None) -> tuple[Program, Watch]:
    baked: frozenset[str] = frozenset()
    while True:
        tracer = Tracer(Watch())
        rebuilt = Rebuilder(tracer, baked).callable(function)
        arguments = [Symbolic(var(a)) for a in ARGUMENTS[kind]]
        try:
            with torch_mode():
                expr = run_all_paths(tracer, partial(rebuilt, *arguments))
        except Baked as request:
            baked |= request.names
            continue
        check_result(expr, kind, tracer.spans.get(expr) or _definition(function))
        used = [c.name for c in captures_of(expr)] + [str(p.attribute) for p in params_of(expr)]
        program = Program(
            kind,
            name or function_name(function),
            expr,
            {n: tracer.values[n] for n in used},
            tracer.spans,
            _source(function),
            tracer.tensor_style,
        )
        return program, tracer.watch


def check_signature(function: Callable[..., Any], kind: Kind) -> None:
    """Raise `KindError` unless `function` can be called with the arguments of its kind."""
    names = ARGUMENTS[kind]
    other = ARGUMENTS[Kind.SCORE if kind is Kind.MASK else Kind.MASK]
    try:
        inspect.signature(function).bind(*names)
    except TypeError:
        raise KindError(
            f"a {kind.value} mod is called with ({', '.join(names)}),"
            f" but {function_name(function)}{inspect.signature(function)} does not take that",
            fix=f"def {function_name(function)}({', '.join(names)}), or the other kind of mod,"
            f" ({', '.join(other)})",
            span=_definition(function),
        ) from None
    except ValueError:  # a builtin without a signature
        return


def check_result(expr: Expr, kind: Kind, span: Span | None) -> None:
    """Raise `ResultError` unless `expr` is what a mod of this kind must return."""
    wanted = _RESULT[kind]
    if expr.type is wanted:
        return
    fix = {
        Kind.MASK: "a comparison, such as `!= 0` after it; a score modification is a score_mod",
        Kind.SCORE: "the new score, a float; a condition on which pairs are allowed is a mask_mod",
    }[kind]
    raise ResultError(
        f"a {kind.value} mod returns a {wanted.value}, but this returns the"
        f" {expr.type.value} {expr!r}",
        fix=fix,
        span=span,
    )


def function_name(function: Any) -> str:
    """An identifier for a callable."""
    inner = getattr(function, "func", function)  # functools.partial
    name = getattr(inner, "__name__", type(inner).__name__)
    return name if name.isidentifier() else "mod"


def _definition(function: Any) -> Span | None:
    code = getattr(getattr(function, "func", function), "__code__", None)
    return None if code is None else _first_line(code)


@lru_cache(maxsize=1024)
def _first_line(code: CodeType) -> Span:
    line = Span(code.co_filename, code.co_firstlineno, 0, 0).source_line() or ""
    column = len(line) - len(line.lstrip())
    return Span(code.co_filename, code.co_firstlineno, column, len(line))


def _source(function: Any) -> str:
    span = _definition(function)
    return f"{PurePath(span.file).name}:{span.line}" if span else ""
