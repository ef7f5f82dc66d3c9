"""The closed form of a mask whose lengths are not known yet: what a kernel built ahead of time has.

It is proven for all lengths up to a million tokens, with the mask's parameters as they are now.
Whether a call's own plan is a closed form is decided anew for its lengths, in `plan.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexdsl.analysis.anchors import is_anchored
from flexdsl.analysis.closed_form import ClosedForm, Declined
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.strided import derive_form
from flexdsl.analysis.values import bind_ranges
from flexdsl.ir import Op, Program, const, walk

LENGTH = 2**20
BATCH, HEADS = 64, 64  # at least; a capture indexed by them may have fewer


def typical_closed_form(mask: Program | None, inner: str = "kv") -> ClosedForm | None:
    """The closed form of `mask` (None: every pair) for long sequences; None where it has none.

    Args:
        inner: the variable that the intervals are of: "kv" or "q".
    """
    return _derived(mask, inner, {})


def _derived(
    mask: Program | None, inner: str, ranges: Mapping[str, tuple[int, int]]
) -> ClosedForm | None:
    """The closed form with each parameter in its range, or of the value that it has now."""
    expr = const(True) if mask is None else mask.expr
    values = {} if mask is None else mask.values
    outer = "q" if inner == "kv" else "kv"
    loads = [n for n in walk(expr) if n.op is Op.LOAD]
    if any(not n.variables <= {"b", "h", outer} for n in loads):
        return None  # its runs depend on contents, which are not known either
    grid = Grid(LENGTH, LENGTH, (128, 128), 0, *_axes(values))
    prover = Prover(outer, grid, bind_ranges(values, ranges, expr))
    try:
        form = derive_form(expr, inner, prover)
    except Declined:
        return None
    # Whether other bounds by rows are exact depends on lengths and contents.
    if form.by_rows and (len(form.intervals) > 1 or not is_anchored(form.intervals[0], prover)):
        return None
    return form


def _axes(values: Mapping[str, Any]) -> tuple[int, int]:
    """Batches and heads that are told apart."""
    lengths = [n for v in values.values() for n in getattr(v, "shape", ())]
    return min([BATCH, *lengths]), min([HEADS, *lengths])


@dataclass(frozen=True)
class Proven:
    """A closed form with the calls that it is proven for.

    Attributes:
        form: the closed form.
        ranges: least and largest value, both inclusive, of each integer parameter of the mask.
        heads: heads and batches that it is proven for, where the mask tells them apart.
    """

    form: ClosedForm
    ranges: dict[str, tuple[int, int]]
    batch: int
    heads: int


# What an integer parameter may be, tried in this order; most windows have any length but 0, and a
# product of 64 heads has no room for the largest.
_CANDIDATES = tuple((low, most) for most in (2**30, 2**20) for low in (-most, 0, 1))


def proven_form(mask: Program | None, inner: str = "kv") -> Proven | None:
    """The closed form of `typical_closed_form`, and the parameters for which it is the same one.

    Each integer parameter is proven for as wide a range as there is a proof for; the value that it
    has now is in it. A proof knows nothing of them but their ranges: it covers every combination.
    """
    form = typical_closed_form(mask, inner)
    if form is None:
        return None
    values = {} if mask is None else mask.values
    ranges = {n: (v, v) for n, v in values.items() if isinstance(v, int)}
    for name, value in ranges.items():
        for low, high in _CANDIDATES:
            wider = {**ranges, name: (low, high)}
            if low <= value[0] <= high and _derived(mask, inner, wider) == form:
                ranges = wider
                break
    return Proven(form, ranges, *_axes(values))
