"""When generated kernels compute a term of a score from its factors: the score of a call's kernels.

Products of a number of q and one of kv that are written so (`analysis/products.py`) are one more
matrix product, in the forward pass and in the backward. Other terms that have factors, and which of
them are worth it, are for `analysis/separable.py`: the forward pass adds those up for each pair.

Squares of differences are multiplied out where little is lost by it, which is seen from the numbers
themselves: they are looked at once, and again when a tensor that they are made of has changed.

Inputs of 32 bits keep the score as it is written: a factor is rounded apart from the others. So do
kernels that find gradients of captured tensors, which are read off its loads. The backward pass
has no registers for terms that are added up for each pair: of ALiBi it took 1.17 times as long (an
H100, torch 2.11.0+cu130, triton 3.6.0, 2026-11-25), where the forward pass took 0.97 times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from flexdsl.analysis.given import score_given
from flexdsl.analysis.products import (
    MOST_COLUMNS,
    Factored,
    describe_products,
    find_most_products,
    find_products,
    taken,
    width_of,
)
from flexdsl.analysis.separable import describe_factors, separated
from flexdsl.codegen import Phase
from flexdsl.ir import Program, captures_of, rename_apart, var
from flexdsl.runtime.bind import Bound
from flexdsl.runtime.magnitude import largest_number

_LEAST_SCALE = 2.0**-64  # what numbers are divided by without an overflow that matters
# Of the parts of squares: what is lost by then, 2**-10 of a score, changes a weight by a quarter of
# what rounding an output to bfloat16 may.
_LARGEST_PART = 2.0**12


def with_products(bound: Bound, scale: float, dtype: torch.dtype, *, squares: bool) -> Bound:
    """A call whose kernels get the products of its score as matrices, where that may be.

    Args:
        dtype: of q, k and v.
        squares: there are kernels for those of squares that are multiplied out.
    """
    if _reason_against_matrices(bound, scale, dtype):
        return bound
    products, rest = taken(bound.score, _found(bound, squares))
    return replace(bound, score=rest, products=products) if products else bound


def tensors_of_squares(mask: Program | None, score: Program | None) -> list[torch.Tensor]:
    """Captured tensors whose elements decide whether a score's squares are multiplied out."""
    if score is not None and mask is not None:
        score = score_given(rename_apart(score, mask.values), mask)
    found = None if score is None else find_most_products(score.expr)
    if score is None or found is None:
        return []
    tensors = [score.values[c.name] for side in found.squares for c in captures_of(side)]
    # Of what is learned none are, whatever its elements.
    return [] if any(x.requires_grad for x in tensors) else tensors


def _found(bound: Bound, squares: bool) -> Factored | None:
    """The products of a call's score, those of squares too if `squares` and little is lost."""
    if bound.score is None:
        return None
    if squares:
        found = find_most_products(bound.score.expr)
        if found is None or not found.has_squares or _largest_part(bound, found) <= _LARGEST_PART:
            return found
    return find_products(bound.score.expr)


def _largest_part(bound: Bound, found: Factored) -> float:
    assert bound.score is not None
    return max(largest_number(side, bound.score, bound.lengths) for side in found.squares)


def _reason_against_products(
    bound: Bound, found: Factored | None, scale: float, dtype: torch.dtype
) -> str:
    """Why the products of a call's score are added up for each pair; "" where matrices may be."""
    if found is not None and (width := width_of(found.products)) > MOST_COLUMNS:
        return (
            f"its matrices have {width} columns, and kernels take {MOST_COLUMNS}; two bfloat16"
            " tensors need 3 for a product, two of float32 6"
        )
    return _reason_against_matrices(bound, scale, dtype)


def _reason_against_matrices(bound: Bound, scale: float, dtype: torch.dtype) -> str:
    """The same, whatever the products are."""
    if abs(scale) < _LEAST_SCALE:
        return f"the scale is {scale}, and they are divided by it"
    return _reason_against(bound, dtype)


def score_of_kernel(bound: Bound, dtype: torch.dtype, phase: Phase) -> Program | None:
    """The score modification of a call as the kernel of `phase` computes it.

    Args:
        dtype: of q, k and v.
    """
    if bound.score is None or phase is not Phase.FORWARD or _reason_against(bound, dtype):
        return bound.score
    expr = separated(bound.score.expr, var("q_first"))
    return bound.score if expr is bound.score.expr else replace(bound.score, expr=expr)


_OF_FEW = "with few queries the score is as it is written"
_FEW = "with few queries its matrices would be written to be read once"


def explain_factors(bound: Bound, scale: float, dtype: torch.dtype, *, few: bool) -> Iterator[str]:
    """A line for each term of low rank: is it computed from its factors in this call, and why?

    Args:
        few: the forward pass is that of few queries, which has the score as it is written.
    """
    if bound.score is None:
        return
    forward, found = replace(bound, learned=()), _found(bound, squares=True)
    against = _reason_against_products(forward, found, scale, dtype)
    backward = _reason_against_products(bound, found, scale, dtype)
    for line in describe_products(found):
        if against or (few and backward):
            yield f"{line}; not used: {against or backward}"
        elif few:
            yield f"{line}, used backward; not forward: {_FEW}"
        elif backward:
            yield f"{line}, used forward; not backward: {backward}"
        else:
            yield f"{line}, used forward and backward"
    most = find_most_products(bound.score.expr)
    if most is not found:
        part = _largest_part(bound, most) if most is not None else 0.0
        yield f"squares of differences as they are written: {_why_not(part)}"
    against = _reason_against(forward, dtype) or (_OF_FEW if few else "")
    for line in describe_factors(bound.score.expr):
        yield f"{line}; not in this call: {against}" if against and "; used" in line else line


def _why_not(part: float) -> str:
    """Why squares whose largest part that is are not multiplied out."""
    if part == math.inf:
        return "their parts can change unseen or in each step, or one is infinite"
    return f"their parts, as large as {part:.3g}, would lose digits above {_LARGEST_PART:.0f}"


def _reason_against(bound: Bound, dtype: torch.dtype) -> str:
    """Why no term of this call's score is computed from its factors; "" where some may be."""
    if dtype.itemsize > 2:
        return f"{dtype} keeps the score as it is written"
    return f"{', '.join(bound.learned)} is learned" if bound.learned else ""
