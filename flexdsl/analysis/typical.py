"""The closed form of a mask whose lengths are not known yet: what a kernel built ahead of time has.

It is proven for all lengths up to a million tokens, with the mask's parameters as they are now.
Whether a call's own plan is a closed form is decided anew for its lengths, in `plan.py`.
"""

from __future__ import annotations

from flexdsl.analysis.closed_form import ClosedForm, Declined
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.strided import derive_form
from flexdsl.analysis.values import bind
from flexdsl.ir import Op, Program, const, walk

LENGTH = 2**20
BATCH, HEADS = 64, 64  # at least; a capture indexed by them may have fewer


def typical_closed_form(mask: Program | None, inner: str = "kv") -> ClosedForm | None:
    """The closed form of `mask` (None: every pair) for long sequences; None where it has none.

    Args:
        inner: the variable that the intervals are of: "kv" or "q".
    """
    expr = const(True) if mask is None else mask.expr
    values = {} if mask is None else mask.values
    loads = [n for n in walk(expr) if n.op is Op.LOAD]
    outer = "q" if inner == "kv" else "kv"
    if any(not n.variables <= {"b", "h"} for n in loads):
        return None  # its runs depend on contents, which are not known either
    lengths = [n for v in values.values() for n in getattr(v, "shape", ())]
    batch, heads = (min([limit, *lengths]) for limit in (BATCH, HEADS))
    grid = Grid(LENGTH, LENGTH, (128, 128), 0, batch, heads)
    try:
        form = derive_form(expr, inner, Prover(outer, grid, bind(values, expr)))
    except Declined:
        return None
    # Whether bounds by rows are exact depends on the lengths.
    return None if any(interval.by_rows for interval in form.intervals) else form
