"""When generated kernels compute a term of a score from its factors: the score of a call's kernels.

Which terms have factors, and which of them are worth it, is for `analysis/separable.py`. Inputs of
32 bits keep the score as it is written: a factor is rounded apart from the others. So does a score
whose captured tensors are learned, since gradients are read off its loads. So does the backward
pass, which has no registers for them: of ALiBi it took 1.17 times as long (an H100, torch
2.11.0+cu130, triton 3.6.0, 2026-11-25), where the forward pass took 0.97 times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from flexdsl.analysis.separable import describe_factors, separated
from flexdsl.codegen import Phase
from flexdsl.ir import Program, var
from flexdsl.runtime.bind import Bound


def score_of_kernel(bound: Bound, dtype: torch.dtype, phase: Phase) -> Program | None:
    """The score modification of a call as the kernel of `phase` computes it.

    Args:
        dtype: of q, k and v.
    """
    if bound.score is None or phase is not Phase.FORWARD or _reason_against(bound, dtype):
        return bound.score
    expr = separated(bound.score.expr, var("q_first"))
    return bound.score if expr is bound.score.expr else replace(bound.score, expr=expr)


def explain_factors(bound: Bound, dtype: torch.dtype) -> Iterator[str]:
    """A line for each term of low rank: is it computed from its factors in this call, and why?"""
    if bound.score is None:
        return
    against = _reason_against(bound, dtype)
    for line in describe_factors(bound.score.expr):
        yield f"{line}; not in this call: {against}" if against and "; used" in line else line


def _reason_against(bound: Bound, dtype: torch.dtype) -> str:
    """Why no term of this call's score is computed from its factors; "" where some may be."""
    if dtype.itemsize > 2:
        return f"{dtype} keeps the score as it is written"
    return f"{', '.join(bound.learned)} is learned" if bound.learned else ""
