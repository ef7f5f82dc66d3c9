"""Plans made another way than `make_plan` would: the same mask as a table of runs."""

from __future__ import annotations

from dataclasses import replace

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.planning import table_of


def as_table(plan: BlockPlan) -> BlockPlan:
    """A plan of the same mask and grid by subdivision, whatever the kind of `plan`."""
    table = table_of(plan.scene, plan.outer)
    return replace(plan, closed_form=None, table=table, _ends=None)
