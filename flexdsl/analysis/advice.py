"""What to change so that a plan becomes a closed form, or has fewer tiles and more full ones.

Advice with figures was tried: the changed mask is planned for the same lengths, and the figures are
of that plan. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from flexdsl.analysis.orders import advice_on_order
from flexdsl.analysis.table import OF_FORM
from flexdsl.analysis.truth import flatten
from flexdsl.analysis.values import substitute
from flexdsl.ir import Capture, DType, Expr, Op, Program, apply, const, load, print_expr, var

if TYPE_CHECKING:
    from flexdsl.analysis.plan import BlockPlan

Q, KV = var("q"), var("kv")


def advice(plan: BlockPlan) -> Iterator[str]:
    """What to change, a paragraph each; nothing for a plan made on a device."""
    if plan.mask is None or plan.device is not None:
        return
    found = list(advice_on_order(plan, plan.mask))
    is_table = plan.table is not None and plan.table.made != OF_FORM
    if is_table:
        found += _offsets_of_sorted(plan, plan.mask)
    yield from found
    if is_table and not found:
        yield (
            "a closed form needs conditions that compare kv with numbers of q, b and h alone,"
            " such as low(q) <= kv and kv < high(q); and one of a remainder at most, such as"
            " (q - kv) % 512 == 0"
        )


def _offsets_of_sorted(plan: BlockPlan, mask: Program) -> Iterator[str]:
    """`doc[q] == doc[kv]` of a sorted doc is `first[q] <= kv and kv < stop[q]`.

    With q itself held between the ends it is a closed form on a device too (`anchors.py`).
    """
    for part in flatten(mask.expr):
        capture = _compared_with_itself(part)
        if capture is None:
            continue
        array = plan.scene.bindings.arrays[capture.name]
        if capture.rank != 1 or np.any(array[1:] < array[:-1]):
            continue
        sides: dict[str, Literal["left", "right"]] = {"first": "left", "stop": "right"}
        names = [f"{capture.name}_{side}" for side in sides]
        ends = [load(Capture(name, DType.I32, 1), Q) for name in names]
        low, high = apply(Op.MIN, ends[0], Q), apply(Op.MAX, ends[1], apply(Op.ADD, Q, const(1)))
        inside = apply(Op.AND, apply(Op.LE, low, KV), apply(Op.LT, KV, high))
        tensors = (np.searchsorted(array, array, s).astype(np.int32) for s in sides.values())
        values = {**mask.values, **dict(zip(names, tensors, strict=True))}
        changed = replace(mask, expr=substitute(mask.expr, {part: inside}), values=values)
        if plan.with_mask(changed).closed_form is not None:
            yield (
                f"{capture.name} never decreases: with the first position and the end of each"
                f" position's equals in two int32 tensors, {print_expr(inside)} in place of"
                f" {print_expr(part)} is a closed form"
            )


def _compared_with_itself(part: Expr) -> Capture | None:
    """The capture X of `X[q] == X[kv]`."""
    if part.op is not Op.EQ or {a.op for a in part.args} != {Op.LOAD}:
        return None
    a, b = part.args
    if a.attribute != b.attribute or {a.args[-1], b.args[-1]} != {Q, KV}:
        return None
    return a.attribute if isinstance(a.attribute, Capture) else None
