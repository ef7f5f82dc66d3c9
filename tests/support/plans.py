"""Plans made another way than `make_plan` would: the same mask as a table of runs."""

from __future__ import annotations

from dataclasses import replace

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.subdivide import map_tiles
from flexdsl.analysis.table import table_of_map


def as_table(plan: BlockPlan) -> BlockPlan:
    """A plan of the same mask and grid by subdivision, whatever the kind of `plan`."""
    grid = plan.scene.grid
    outer = grid.q_tiles if plan.outer == "q" else grid.kv_tiles
    tiles = map_tiles(plan.scene)
    table = table_of_map(tiles, grid.batch, grid.heads, outer, plan.outer == "kv")
    return replace(plan, closed_form=None, table=table, _ends=None)
