"""The user's function on plain numbers: what it says of every pair, and whether it can be trusted.

The answers are the oracle of everything else in this room. Here they are held against the traced
expression, which is what the analysis and the kernels know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexdsl.ir import Program, evaluate
from flexdsl.mod import Mod
from flexdsl.runtime.evaluate import evaluate as evaluate_tensors
from flexdsl.testing.case import Case
from flexdsl.testing.effects import State, changed_name, state_of
from flexdsl.testing.subject import Subject

ASKED_AGAIN = 64  # pairs whose answers are compared between two calls
TIMES = 8  # that a wrong answer is asked for again, to tell chance from a wrong expression
TOLERANCE = 1e-5  # of a score: captured float32 tensors make plain calls compute in float32

Pair = tuple[int, int, int, int]


class Disagreement(Exception):
    """A check failed; the text says which, in a sentence or two, without the case.

    Attributes:
        backend: that was asked, or is asked next.
        stage: 0 for function, plan or output, 1 for gradients, 2 for laws.
    """

    backend: str = "cpu"
    stage: int = 0


def allowed_pairs(subject: Subject, case: Case) -> Any:
    """What the mask says of every pair: bool [B, H, Lq, Lkv], by one call on plain ints each.

    Under other values than its own the function cannot be asked: then its expression is.

    Raises:
        Disagreement: it raises, changes something, answers differently when asked again, or is not
            its expression.
    """
    if subject.mask is None or subject.mask_program is None:
        return np.ones(case.pairs, np.bool_)
    mask, program = subject.mask, subject.mask_program
    traced = traced_pairs(program, case)
    if subject.varied:
        return traced
    pairs = list(_pairs(case))

    def ask(pair: Any) -> bool:
        return bool(_call(mask, pair))

    ask(pairs[0])  # the first call may trace the function, both ways of every branch
    before = state_of(mask)
    answers = [ask(pair) for pair in pairs]
    _check_effects(mask, before)
    _ask_again(pairs, answers, ask, mask)
    allowed = np.array(answers, np.bool_).reshape(case.pairs)
    wrong = np.argwhere(traced != allowed)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        pair = pairs[int(np.ravel_multi_index(at, case.pairs))]
        _ask_again([pair] * TIMES, [bool(allowed[at])] * TIMES, ask, mask)
        raise Disagreement(
            f"{mask.name}{pair} is {allowed[at]}, but its expression says {traced[at]}:"
            f" {program.text}"
        )
    return allowed


def traced_pairs(program: Program, case: Case) -> Any:
    """What a mask's expression says of every pair: bool [B, H, Lq, Lkv]."""
    grids = np.ogrid[tuple(slice(n) for n in case.pairs)]
    variables = dict(zip(("b", "h", "q", "kv"), grids, strict=True))
    variables["q"] = variables["q"] + case.q_offset
    traced = evaluate(program.expr, variables, _arrays(program.values))
    return np.array(np.broadcast_to(traced, case.pairs), np.bool_)


def check_score(subject: Subject, case: Case, scores: Tensor, modified: Tensor, at: Any) -> None:
    """Hold the score modification, called on plain numbers, against its expression.

    Args:
        scores, modified: float64 [n], raw scores and what the expression makes of them.
        at: the b, h, row and kv of each, int64 [n].

    Under other values than its own the expression is held against itself, as numpy evaluates it.

    Raises:
        Disagreement: it raises, changes something, answers differently when asked again, or is not
            its expression.
    """
    mod, program = subject.score, subject.score_program
    assert mod is not None and program is not None
    b, h, row, kv = (x.tolist() for x in at)
    points = list(zip(scores.tolist(), b, h, [r + case.q_offset for r in row], kv, strict=True))

    def ask(point: Any) -> float:
        return float(_call(mod, point))

    if subject.varied:
        answers = _evaluated(program, points)
    else:
        for point in points[:1]:
            ask(point)  # as of a mask
        before = state_of(mod)
        answers = [ask(point) for point in points]
        _check_effects(mod, before)
        _ask_again(points, answers, ask, mod)
    for point, found, traced in zip(points, answers, modified.tolist(), strict=True):
        if not _close(found, traced):
            _ask_again([point] * TIMES, [found] * TIMES, ask, mod)
            raise Disagreement(
                f"{mod.name}{point} is {found!r}, but its expression says {traced!r}:"
                f" {program.text}"
            )


def modified_scores(
    subject: Subject, case: Case, scores: Tensor, values: dict[str, Any], at: Any
) -> Tensor:
    """The score's expression at some pairs, in float64, differentiable: [n]."""
    program = subject.score_program
    assert program is not None
    b, h, row, kv = at
    variables = {"score": scores, "b": b, "h": h, "q": row + case.q_offset, "kv": kv}
    return evaluate_tensors(program.expr, variables, values, torch.float64).expand(scores.shape)


def _evaluated(program: Program, points: list[Any]) -> list[float]:
    """What numpy makes of a score's expression at some points."""
    columns = np.array(points, np.float64).reshape(-1, 5).T
    indices = dict(zip(("b", "h", "q", "kv"), columns[1:].astype(np.int64), strict=True))
    variables = {"score": columns[0], **indices}
    found = evaluate(program.expr, variables, _arrays(program.values))
    return [float(x) for x in np.broadcast_to(found, len(points))]


def _check_effects(mod: Mod, before: State) -> None:
    """Raise `Disagreement` where calling the mod has changed a variable that it uses."""
    name = changed_name(before, state_of(mod))
    if name is not None:
        raise Disagreement(
            f"{mod.name} has side effects: calling it changes `{name}`, and how often it is called"
            " is not promised"
        )


def _pairs(case: Case) -> Iterable[Pair]:
    rows = range(case.q_offset, case.q_offset + case.q_len)
    return product(range(case.batch), range(case.heads), rows, range(case.kv_len))


def _call(mod: Mod, arguments: tuple[Any, ...]) -> Any:
    try:
        return mod(*arguments)
    except Exception as error:
        raise Disagreement(
            f"{mod.name}{arguments} raises {type(error).__name__}: {error}"
        ) from error


def _ask_again(points: list[Any], answers: list[Any], ask: Callable[[Any], Any], mod: Mod) -> None:
    """Ask about some points once more, last one first; every answer must be the same."""
    step = -(-len(points) // ASKED_AGAIN)
    for n in reversed(range(0, len(points), max(1, step))):
        again = ask(points[n])
        if again != answers[n] and not (again != again and answers[n] != answers[n]):
            raise Disagreement(
                f"{mod.name} is not deterministic: {mod.name}{points[n]} is {answers[n]}, and"
                f" {again} when it is asked again"
            )


def _close(a: float, b: float) -> bool:
    if a == b or (a != a and b != b):
        return True
    return bool(abs(a - b) <= TOLERANCE * (1.0 + abs(b)))


def _arrays(values: Any) -> dict[str, Any]:
    """Numbers as they are, captured tensors as numpy arrays of what numpy knows."""
    return {n: _array(v) if isinstance(v, Tensor) else v for n, v in values.items()}


def _array(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
