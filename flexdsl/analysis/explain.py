"""A plan in words: its kind and why, how each conjunct was decided, what to change, what it saves.

Nothing is found out here that a plan does not know; `advice.py` tries changes of the mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from flexdsl.analysis.advice import advice
from flexdsl.analysis.closed_form import BOTTOM, TOP, Interval
from flexdsl.analysis.table import SUBDIVIDED
from flexdsl.analysis.truth import flatten
from flexdsl.errors import Span
from flexdsl.ir import Expr, Op, captures_of, print_expr, walk

if TYPE_CHECKING:
    from flexdsl.analysis.plan import BlockPlan

MAX_CONJUNCTS = 8  # of a longer chain only the first ones are told


def explain(plan: BlockPlan) -> str:
    """The whole explanation, several lines of plain text."""
    changes = (f"to change: {text}" for text in advice(plan))
    lines = [_title(plan), *_way(plan), *changes, *_conjuncts(plan), *_figures(plan)]
    return "\n".join(lines)


def _title(plan: BlockPlan) -> str:
    name = "no mask" if plan.mask is None else f"mask {plan.mask.name}"
    height, width = plan.tile_shape
    offset = f", queries start at position {plan.q_offset}" if plan.q_offset else ""
    return f"{name}: {plan.q_len} x {plan.kv_len} pairs in {height} x {width} tiles{offset}"


def _way(plan: BlockPlan) -> list[str]:
    inner, outer = ("kv", "q") if plan.outer == "q" else ("q", "kv")
    if plan.kind == "device":
        return [
            f"table made on {plan.device}, by a kernel that reckons with the ranges of q, kv and"
            f" {_captures(plan.scene.expr)}",
            *_why_no_form(plan),
            "  what follows was found on the host, from a copy of them",
        ]
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
    found = "the least and the largest of a tile's rows" if plan.closed_form.by_rows else "them"
    lines.append(f"  a kernel computes its own loop bounds from {found}; there is no table")
    return lines


def _interval(interval: Interval, inner: str) -> str:
    low = "" if interval.lower is BOTTOM else f"{print_expr(interval.lower)} <= "
    high = "" if interval.upper is TOP else f" < {print_expr(interval.upper)}"
    text = f"{low}{inner}{high}" if low or high else f"every {inner}"
    return text if interval.sieve is None else f"{text}, {interval.sieve}"


def _why_table(plan: BlockPlan) -> list[str]:
    """How the table was made, and why there is one."""
    return [f"table of runs, made {_made(plan)}", *_why_no_form(plan)]


def _why_no_form(plan: BlockPlan) -> list[str]:
    """The reason and the place in the source that stands in the way of a closed form."""
    if plan.why_table is None:
        return []
    span = _span(plan, plan.why_table.node)
    rendered = [] if span is None else [span.render()]
    return [f"  no closed form: {plan.why_table.reason}", *rendered]


def _made(plan: BlockPlan) -> str:
    """How its table was found; a plan of a device has none on the host."""
    return SUBDIVIDED if plan.table is None else plan.table.made


def _span(plan: BlockPlan, node: Expr) -> Span | None:
    """Where a node, or the last part of it that is known, came from."""
    spans = {} if plan.mask is None else plan.mask.spans
    return next((spans[n] for n in (node, *reversed(list(walk(node)))) if n in spans), None)


def _captures(expr: Expr) -> str:
    return ", ".join(c.name for c in captures_of(expr))


def _conjuncts(plan: BlockPlan) -> list[str]:
    """What each conjunct alone leaves of the tiles, and how that was found."""
    expr = plan.scene.expr
    parts = flatten(expr) if expr.op is Op.AND else []
    lines = [line for part in parts[:MAX_CONJUNCTS] for line in _conjunct(plan, part)]
    if len(parts) > MAX_CONJUNCTS:
        lines.append(f"  and {len(parts) - MAX_CONJUNCTS} more conditions")
    return ["each condition alone:", *lines] if lines else []


def _conjunct(plan: BlockPlan, part: Expr) -> Iterator[str]:
    """Shares of the tiles; where the condition stands, and how it was decided."""
    if plan.mask is None:
        return
    alone = plan.with_mask(replace(plan.mask, expr=part))
    yield f"  {print_expr(part)}: {_shares(alone)}"
    span = _span(plan, part)
    where = f"{span.file}:{span.line}:{span.column + 1}: " if span is not None else ""
    yield f"    {where}{_how(alone)}"


def _shares(plan: BlockPlan) -> str:
    total = plan.batch * plan.heads * plan.q_tiles * plan.kv_tiles
    if not total:
        return "no tiles"
    live, full = plan.live_tiles, plan.full_tiles
    shares = ((total - live, "empty"), (live - full, "partial"), (full, "full"))
    return ", ".join(f"{count / total:.1%} {word}" for count, word in shares)


def _how(alone: BlockPlan) -> str:
    """How the tiles of one condition were decided."""
    if alone.closed_form is not None:
        found = [_interval(i, "kv") for i in alone.closed_form.intervals]
        return f"solved for kv: {', or '.join(found)}" if found else "never true"
    captures = _captures(alone.scene.expr)
    ranges = f"q, kv and the elements of {captures}" if captures else "q and kv"
    reason = "" if alone.why_table is None else f" ({alone.why_table.reason})"
    if _made(alone) != SUBDIVIDED:
        return f"a table, made {_made(alone)}{reason}"
    return f"judged on boxes by the ranges of {ranges}, cut down to single pairs{reason}"


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
        f"density: {plan.density:.2%} of the tiles are live, {plan.full_tiles} of"
        f" {plan.live_tiles} full; {plan.pairs} pairs ({share:.2%}) are allowed",
        f"FLOPs saved against computing every tile: {1 - plan.density:.2%}",
        f"bytes that a kernel reads: {plan.nbytes}",
        f"{depends}; {empty}",
        *_shape(plan),
    ]


def _shape(plan: BlockPlan) -> list[str]:
    """What is proven of the form of a mask, in one line; no line where nothing is."""
    outer, inner = ("q", "kv") if plan.outer == "q" else ("kv", "q")
    facts = (
        (plan.is_contiguous, f"the {inner} of each {outer} are one range"),
        (plan.ends_ascend, f"its ends never decrease along {outer}"),
        (plan.is_symmetric, "q and kv may be exchanged"),
    )
    told = "; ".join(words for holds, words in facts if holds)
    return [told] if told else []
