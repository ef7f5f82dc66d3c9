"""Run a function once for each path through its branches and join the results.

`and`, `or`, `not`, `if`, chained comparisons and early returns all ask a symbolic value for its
truth. The first run takes every condition as true; for each of them a further run takes it as
false; `where(condition, one result, the other)` joins the two, and the smart constructors turn
that into `and` and `or` where it is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flexdsl.errors import BranchError, FlexdslError, ResultError, TypeMismatchError
from flexdsl.frontend import tracer
from flexdsl.frontend.symbolic import lift
from flexdsl.frontend.tracer import ENTRY_CODE, MAX_PATHS, Tracer
from flexdsl.ir import Expr, Op, apply

_Path = list[tuple[Expr, bool]]


def run_all_paths(trace: Tracer, call: Callable[[], Any]) -> Expr:
    """The expression that `call()` computes, over all its paths.

    Raises:
        BranchError: more than MAX_PATHS paths, or too many conditions on one.
        ResultError: a path returns nothing that a kernel can compute.
    """
    budget = [MAX_PATHS]

    def explore(given: _Path) -> Expr:
        budget[0] -= 1
        if budget[0] < 0:
            raise _too_many_paths(trace)
        trace.restart(given)
        result = _enter(trace, call)
        path = list(trace.decisions)
        for length in range(len(path) - 1, len(given) - 1, -1):
            condition = path[length][0]
            other = explore([*path[:length], (condition, False)])
            result = _join(trace, condition, result, other)
        return result

    return explore([])


def _enter(trace: Tracer, call: Callable[[], Any]) -> Expr:
    token = tracer.ACTIVE.set(trace)
    try:
        value = call()
        if value is None:
            raise ResultError(
                "the mod returns None on one of its paths",
                fix="a `return` at the end of every branch",
            )
        return lift(value)
    except RecursionError as error:
        raise BranchError(
            "this function calls itself without end",
            why="its calls are followed while it is read, whatever q and kv are",
            fix="a formula, or a table that the function looks up",
        ) from error
    finally:
        tracer.ACTIVE.reset(token)


# Frames above this one are not the user's.
ENTRY_CODE[0] = _enter.__code__


def _join(trace: Tracer, condition: Expr, a: Expr, b: Expr) -> Expr:
    try:
        joined = apply(Op.WHERE, condition, a, b)
    except TypeMismatchError as error:
        raise ResultError(
            f"one branch gives {a.type.value} {a!r}, the other {b.type.value} {b!r}",
            why=f"the branch is on {condition!r}",
            fix="results of one type in both branches",
            span=trace.spans.get(condition),
        ) from error
    if condition in trace.spans:
        trace.spans.setdefault(joined, trace.spans[condition])
    return joined


def _too_many_paths(trace: Tracer) -> FlexdslError:
    condition = trace.decisions[-1][0]
    return BranchError(
        f"this function has more than {MAX_PATHS} paths through its {len(trace.decisions)}"
        " conditions",
        why="each path is a part of the kernel",
        fix="`&`, `|` and fx.where, which compute both sides without branching",
        span=trace.spans.get(condition),
    )
