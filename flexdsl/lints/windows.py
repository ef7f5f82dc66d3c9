"""A window that keeps one key more than its name says: `q - kv <= window` keeps window + 1.

The keys are counted. What says how many there should be is the name of a parameter, or a number in
the name of the mod: `window`, `sliding_1024`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flexdsl.analysis.truth import flatten
from flexdsl.ir import Expr, Op, Program, captures_of, evaluate, params_of
from flexdsl.lints.finding import Finding, place_of

TRIALS = (5, 11)  # numbers in place of a parameter
FAR = 4096  # a query that no beginning of the sequence is near
_NAMES = re.compile(r"window|width|span|local", re.IGNORECASE)


def find_wide_windows(program: Program) -> Iterator[Finding]:
    """Conditions on q - kv that keep one more key than a name says."""
    parts = flatten(program.expr) if program.expr.op is Op.AND else [program.expr]
    for part in parts:
        if captures_of(part) or part.variables != {"q", "kv"}:
            continue
        named = [str(p.attribute) for p in params_of(part)]
        windows = [n for n in named if _NAMES.search(n)]
        if len(named) == len(windows) == 1:
            name = windows[0]
            counts = [(n, _count(part, {name: n})) for n in TRIALS]
            if all(count == n + 1 for n, count in counts):
                yield _finding(program, part, f"{name} + 1", name)
        elif not named:
            for number in map(int, re.findall(r"\d{2,}", program.name)):
                if number < FAR and _count(part, {}) == number + 1:
                    yield _finding(program, part, str(number + 1), program.name)


def _finding(program: Program, part: Expr, keys: str, name: str) -> Finding:
    return Finding(
        "wide-window",
        f"a query sees {keys} keys, itself among them",
        f"`{name}` reads as the number of keys",
        "`<` in place of `<=`, or a name that says what is counted, such as `farthest`",
        place_of(program, part),
    )


def _count(part: Expr, values: Mapping[str, Any]) -> int | None:
    """Keys up to a far query that meet the condition; None if the window reaches both ways."""
    keys = np.arange(2 * FAR)
    met = np.broadcast_to(evaluate(part, {"q": FAR, "kv": keys}, values), keys.shape)
    later = int(met[FAR + 1 :].sum())
    # A window to both sides is named by its radius as well as by its width.
    return None if 0 < later < FAR - 1 else int(met[: FAR + 1].sum())
