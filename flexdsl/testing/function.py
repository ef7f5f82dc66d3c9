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

from flexdsl.ir import evaluate
from flexdsl.mod import Mod
from flexdsl.runtime.evaluate import evaluate as evaluate_tensors
from flexdsl.testing.case import Case
from flexdsl.testing.subject import Subject

ASKED_AGAIN = 64  # pairs whose answers are compared between two calls
TIMES = 8  # that a wrong answer is asked for again, to tell chance from a wrong expression
TOLERANCE = 1e-5  # of a score: captured float32 tensors make plain calls compute in float32

Pair = tuple[int, int, int, int]


class Disagreement(Exception):
    """A check failed; the text says which, in a sentence or two, without the case."""


def allowed_pairs(subject: Subject, case: Case) -> Any:
    """What the mask says of every pair: bool [B, H, Lq, Lkv], by one call on plain ints each.

    Raises:
        Disagreement: it raises, answers differently when asked again, or is not its expression.
    """
    if subject.mask is None or subject.mask_program is None:
        return np.ones(case.pairs, np.bool_)
    mask, program = subject.mask, subject.mask_program
    pairs = list(_pairs(case))

    def ask(pair: Any) -> bool:
        return bool(_call(mask, pair))

    answers = [ask(pair) for pair in pairs]
    _ask_again(pairs, answers, ask, mask)
    allowed = np.array(answers, np.bool_).reshape(case.pairs)

    grids = np.ogrid[tuple(slice(n) for n in case.pairs)]
    variables = dict(zip(("b", "h", "q", "kv"), grids, strict=True))
    variables["q"] = variables["q"] + case.q_offset
    traced = np.broadcast_to(evaluate(program.expr, variables, _arrays(program.values)), case.pairs)
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


def check_score(subject: Subject, case: Case, scores: Tensor, modified: Tensor, at: Any) -> None:
    """Hold the score modification, called on plain numbers, against its expression.

    Args:
        scores, modified: float64 [n], raw scores and what the expression makes of them.
        at: the b, h, row and kv of each, int64 [n].

    Raises:
        Disagreement: it raises, answers differently when asked again, or is not its expression.
    """
    mod, program = subject.score, subject.score_program
    assert mod is not None and program is not None
    b, h, row, kv = (x.tolist() for x in at)
    points = list(zip(scores.tolist(), b, h, [r + case.q_offset for r in row], kv, strict=True))

    def ask(point: Any) -> float:
        return float(_call(mod, point))

    answers = [ask(point) for point in points]
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
