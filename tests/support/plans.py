"""Plans made another way than `make_plan` would: the same mask as a table of runs."""

from __future__ import annotations

from dataclasses import replace

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.subdivide import map_tiles
from flexdsl.analysis.table import table_of_maps
from flexdsl.analysis.transpose import transpose


def as_table(plan: BlockPlan) -> BlockPlan:
    """A plan of the same mask and grid by subdivision, whatever the kind of `plan`."""
    table, grid = table_of_maps(map_tiles(plan.scene), plan.scene), plan.scene.grid
    if plan.outer == "kv":
        table = transpose(table, grid.batch * grid.heads, grid.q_tiles, grid.kv_tiles)
    return replace(plan, closed_form=None, table=table, _ends=None)
