"""A plan in words: its kind and why, each conjunct and what it decides, and what it saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexdsl.analysis.closed_form import BOTTOM, TOP, Interval
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.subdivide import map_tiles
from flexdsl.analysis.truth import flatten
from flexdsl.ir import Expr, Op, print_expr, walk

if TYPE_CHECKING:
    from flexdsl.analysis.plan import BlockPlan

MAX_CONJUNCTS = 8  # of a longer chain only the first ones are told


def explain(plan: BlockPlan) -> str:
    """The whole explanation, several lines of plain text."""
    lines = [_title(plan), *_way(plan), *_conjuncts(plan), *_figures(plan)]
    return "\n".join(lines)


def _title(plan: BlockPlan) -> str:
    name = "no mask" if plan.mask is None else f"mask {plan.mask.name}"
    height, width = plan.tile_shape
    offset = f", queries start at position {plan.q_offset}" if plan.q_offset else ""
    return f"{name}: {plan.q_len} x {plan.kv_len} pairs in {height} x {width} tiles{offset}"


def _way(plan: BlockPlan) -> list[str]:
    inner, outer = ("kv", "q") if plan.outer == "q" else ("q", "kv")
    if plan.closed_form is None:
        return _why_table(plan)
    intervals = plan.closed_form.intervals
    if not intervals:
        return ["closed form: no pair is allowed"]
    lines = [
        f"closed form: for each {outer} the allowed {inner} are "
        + ("one interval" if len(intervals) == 1 else f"a union of {len(intervals)} intervals")
    ]
    lines += [f"    {_interval(i, inner)}" for i in intervals]
    lines.append("  a kernel computes its own loop bounds from them; there is no table")
    return lines


def _interval(interval: Interval, inner: str) -> str:
    low = "" if interval.lower is BOTTOM else f"{print_expr(interval.lower)} <= "
    high = "" if interval.upper is TOP else f" < {print_expr(interval.upper)}"
    return f"{low}{inner}{high}" if low or high else f"every {inner}"


def _why_table(plan: BlockPlan) -> list[str]:
    """The reason and the place in the source that stands in the way of a closed form."""
    lines = ["table of runs, made by subdivision of the tile grid"]
    if plan.why_table is not None:
        lines.append(f"  no closed form: {plan.why_table.reason}")
        spans = {} if plan.mask is None else plan.mask.spans
        node = plan.why_table.node
        span = next((spans[n] for n in (node, *reversed(list(walk(node)))) if n in spans), None)
        if span is not None:
            lines.append(span.render())
    return lines


def _conjuncts(plan: BlockPlan) -> list[str]:
    """What each conjunct alone leaves of the tiles."""
    scene = plan.scene
    parts = flatten(scene.expr) if scene.expr.op is Op.AND else []
    lines = [f"  {print_expr(part)}: {_decided(scene, part)}" for part in parts[:MAX_CONJUNCTS]]
    if len(parts) > MAX_CONJUNCTS:
        lines.append(f"  and {len(parts) - MAX_CONJUNCTS} more conditions")
    return ["each condition alone:", *lines] if lines else []


def _decided(scene: Scene, part: Expr) -> str:
    grid = scene.grid
    tiles = map_tiles(Scene(part, scene.bindings, grid))
    total = grid.batch * grid.heads * grid.q_tiles * grid.kv_tiles
    if not total:
        return "no tiles"
    full, partial = int(tiles.full.area.sum()), int(tiles.partial.area.sum())
    shares = ((total - full - partial, "empty"), (partial, "partial"), (full, "full"))
    return ", ".join(f"{count / total:.1%} {word}" for count, word in shares)


def _figures(plan: BlockPlan) -> list[str]:
    total = plan.batch * plan.heads * plan.q_len * plan.kv_len
    share = plan.pairs / total if total else 0.0
    axes = [n for n, d in (("b", plan.depends_on_batch), ("h", plan.depends_on_head)) if d]
    depends = f"depends on {' and '.join(axes)}" if axes else "the same for every batch and head"
    empty = (
        "some query rows have no key: they give 0"
        if plan.may_have_empty_rows
        else ("every query row has a key")
    )
    return [
        f"density: {plan.density:.2%} of the tiles are live; "
        f"{plan.pairs} pairs ({share:.2%}) are allowed",
        f"FLOPs saved against computing every tile: {1 - plan.density:.2%}",
        f"bytes that a kernel reads: {plan.nbytes}",
        f"{depends}; {empty}",
    ]
