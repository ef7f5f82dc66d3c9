"""How a plan comes to be: a closed form where one is exact, else a table of runs.

What is asked of a plan, and whether it may be made at all, is for `plan.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from flexdsl.analysis.anchors import is_anchored
from flexdsl.analysis.block_grid import looked_up_table
from flexdsl.analysis.closed_exact import full_in_union_only, leaves_gaps
from flexdsl.analysis.closed_form import ClosedForm, Declined
from flexdsl.analysis.closed_runs import Ends
from flexdsl.analysis.equal_runs import joined_table
from flexdsl.analysis.folded import folded_table
from flexdsl.analysis.overlay import absorb
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.repeated import repeated_table
from flexdsl.analysis.row_table import table_by_rows
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.stretches import stretched_table
from flexdsl.analysis.strided import derive_form, ways
from flexdsl.analysis.subdivide import map_tiles
from flexdsl.analysis.table import RunTable, table_of_maps
from flexdsl.analysis.transpose import transpose
from flexdsl.analysis.union import united_table
from flexdsl.ir import Expr, Op, Program, apply

if TYPE_CHECKING:
    from flexdsl.analysis.plan import BlockPlan

Outer = Literal["q", "kv"]


def plan_of(
    made: type[BlockPlan],
    mask: Program | None,
    sizes: tuple[int, int],
    scene: Scene,
    outer: Outer,
    device: str | None,
    other: Callable[[], RunTable] | None = None,
) -> BlockPlan:
    """A closed form where one is exact, else a table; on a device a kernel makes the table.

    Args:
        sizes: of the axes b and h.
        other: the runs along the other axis, where they are known.
    """
    grid = scene.grid
    form = _closed_form(scene, outer) if device is None else _unread_form(scene, outer)
    ends = table = None
    if isinstance(form, ClosedForm):
        ends = Ends(form, grid, scene.bindings)
    elif device is None:
        table = table_of(scene, outer) if other is None else _turned(other(), scene, outer)
    return made(
        mask=mask,
        q_len=grid.q_len,
        kv_len=grid.kv_len,
        batch=sizes[0],
        heads=sizes[1],
        tile_shape=grid.tile,
        q_offset=grid.q_offset,
        depends_on_batch="b" in scene.expr.variables,
        depends_on_head="h" in scene.expr.variables,
        device=device,
        closed_form=form if isinstance(form, ClosedForm) else None,
        table=table,
        why_table=form if isinstance(form, Declined) else None,
        outer=outer,
        _scene=scene,
        _ends=ends,
    )


def table_of(scene: Scene, outer: Outer) -> RunTable:
    """The runs of each outer tile, of each batch and head that the mask tells apart."""
    table = _table_by_form(scene) or table_of_maps(map_tiles(scene), scene)
    return table if outer == "q" else _turned(table, scene, outer)


def _table_by_form(scene: Scene) -> RunTable | None:
    """The runs of kv tiles where the form of the mask tells how to find them fast."""
    for find, made in (
        (repeated_table, "from one step of rows: the mask repeats along the diagonal"),
        (stretched_table, "from one step of rows of each stretch in which the mask repeats"),
        (looked_up_table, "by one look at each block"),
        (folded_table, "by a closed form in each pair of periods"),
        (table_by_rows, "from the rows between which no captured value changes"),
        (_united, "from those of the parts that `or` joins"),
        (joined_table, "by joining the runs of equal values of both axes"),
    ):
        table = find(scene)
        if table is not None:
            return replace(table, made=made)
    return None


def _united(scene: Scene) -> RunTable | None:
    return united_table(scene, _table_of_part)


def _table_of_part(scene: Scene, elsewhere: Expr) -> RunTable:
    """The runs of kv tiles of a part of a mask, of which `elsewhere` is all that is needed."""
    form = _closed_form(scene, "q")
    if isinstance(form, ClosedForm):
        return Ends(form, scene.grid, scene.bindings).table()
    needed = replace(scene, expr=apply(Op.AND, elsewhere, scene.expr))
    return _table_by_form(scene) or table_of_maps(map_tiles(needed), needed)


def _turned(table: RunTable, scene: Scene, outer: Outer) -> RunTable:
    """The runs for each `outer` tile, from those for each tile of the other axis."""
    grid = scene.grid
    tiles = (grid.q_tiles, grid.kv_tiles) if outer == "kv" else (grid.kv_tiles, grid.q_tiles)
    return replace(transpose(table, grid.batch * grid.heads, *tiles), made=table.made)


def _closed_form(scene: Scene, outer: Outer) -> ClosedForm | Declined:
    """The closed form for runs along the other axis, or why there is none."""
    inner = "kv" if outer == "q" else "q"
    if scene.grid.is_empty:
        return ClosedForm(inner, ())
    prover = Prover(outer, scene.grid, scene.bindings)
    for way in ways(scene.expr, inner, prover):
        form = _exact_form(way, scene, inner, prover)
        if isinstance(form, ClosedForm):
            break
    return form


def _exact_form(
    way: Callable[[], ClosedForm], scene: Scene, inner: str, prover: Prover
) -> ClosedForm | Declined:
    """The closed form that is found in this way, if it is as exact as a table; else why not."""
    try:
        form = way()
    except Declined as declined:
        # The plan keeps the reason, not the frames that it was raised in.
        return declined.with_traceback(None)
    ends = Ends(form, scene.grid, scene.bindings)
    if leaves_gaps(ends):
        return Declined(f"the {inner} of neighbouring {prover.outer} are too far apart", scene.expr)
    if not full_in_union_only(ends):
        return form
    form = absorb(form, prover)
    if not full_in_union_only(Ends(form, scene.grid, scene.bindings)):
        return form
    return Declined("a tile may be full in the union of two intervals only", scene.expr)


def _unread_form(scene: Scene, outer: Outer) -> ClosedForm | Declined:
    """The closed form if it is right whatever captured tensors hold: none of them is read.

    Bounds by rows leave no allowed pair out, and call no tile full that is not, whatever the rows
    load. They are exact as well where rows that follow one another touch. Rows that load both ends
    may lie anywhere: a tile of two rows that look at either end of the keys would visit all keys,
    which a table does not. So the form must show an anchor, which moves by one position a row at
    most (`anchors.py`). Then a kernel visits a tile in vain only between rows that are empty, and
    no more of them than a tile has rows. How a union of intervals meets is known by contents alone.
    """
    prover = Prover(outer, scene.grid, scene.bindings).timeless
    try:
        inner = "kv" if outer == "q" else "q"
        form = derive_form(scene.expr, inner, prover)
    except Declined as declined:
        return declined.with_traceback(None)
    if len(form.intervals) > 1:
        return Declined("how its intervals meet is known on the device only", scene.expr)
    if not all(is_anchored(interval, prover) for interval in form.intervals if interval.by_rows):
        return Declined(
            "whether rows leave gaps between them is known on the device only; each has its own"
            f" position, and they leave none, with minimum(low, {outer}) <= {inner} and"
            f" {inner} < maximum(high, {outer} + 1)",
            scene.expr,
        )
    return form
