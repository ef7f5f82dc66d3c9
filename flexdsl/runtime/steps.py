"""A warning where a gradient cannot see how a score is modified: floors and conditions of it."""

from __future__ import annotations

import warnings
from weakref import WeakSet

from flexdsl.analysis.derivative import describe_steps
from flexdsl.errors import GradientWarning
from flexdsl.ir import Expr, Program

_SEEN: WeakSet[Expr] = WeakSet()


def warn_of_steps(score: Program) -> None:
    """Warn, once for each expression, where `score` depends on the score in steps only."""
    if score.expr in _SEEN:
        return
    _SEEN.add(score.expr)
    text = describe_steps(score)
    if text:
        warnings.warn(text, GradientWarning, stacklevel=4)
