"""What the ends of a closed form show about every row: one range of keys, ends that never go back.

Proofs by form and by ranges; nothing is evaluated row by row. False means "not shown".
"""

from __future__ import annotations

from flexdsl.analysis.closed_form import BOTTOM, ClosedForm
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.tile_bounds import direction
from flexdsl.analysis.values import Bindings
from flexdsl.ir import Op


def is_contiguous(form: ClosedForm) -> bool:
    """Are the allowed inner positions of each outer one a single range, without gaps?"""
    return all(i.sieve is None for i in form.intervals) and len(form.intervals) <= 1


def ends_ascend(form: ClosedForm, grid: Grid, bindings: Bindings) -> bool:
    """Is there one range in each row, and do both its ends stay or rise from row to row?"""
    if len(form.intervals) != 1 or grid.is_empty:
        return False
    outer = "q" if form.inner == "kv" else "kv"
    prover = Prover(outer, grid, bindings).timeless
    interval = form.intervals[0]
    upper = interval.upper
    if upper.op is Op.WHERE and upper.args[2] is BOTTOM and outer not in upper.args[0].variables:
        upper = upper.args[1]  # else all rows are empty
    return all(direction(end, prover) in (0, 1) for end in (interval.lower, upper))
