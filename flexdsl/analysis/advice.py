"""What to change so that a plan of a table becomes a closed form, or has more full tiles.

Advice with figures was tried: the changed mask is planned for the same lengths, and the figures are
of that plan. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from flexdsl.analysis.table import OF_FORM
from flexdsl.analysis.truth import flatten
from flexdsl.analysis.values import substitute
from flexdsl.ir import Capture, DType, Expr, Op, Program, apply, const, load, print_expr, var, walk

if TYPE_CHECKING:
    from flexdsl.analysis.plan import BlockPlan

Q, KV = var("q"), var("kv")


def advice(plan: BlockPlan) -> Iterator[str]:
    """What to change, a paragraph each; nothing for a closed form, or a plan made on a device."""
    if plan.mask is None or plan.table is None or plan.table.made == OF_FORM:
        return
    found = [*_offsets_of_sorted(plan, plan.mask), *_patches_of_window(plan, plan.mask)]
    yield from found
    if not found:
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


def _patches_of_window(plan: BlockPlan, mask: Program) -> Iterator[str]:
    """A window over a grid of tokens, row after row: what tokens in patches would make of it."""
    width = _width_of_grid(mask.expr)
    if width is None or plan.q_offset or plan.q_len != plan.kv_len or plan.q_len % width:
        return
    size = max(plan.tile_shape)
    patch = _patch(size, width, plan.q_len // width)
    if patch is None or any(size % n for n in plan.tile_shape):
        return
    changed = replace(mask, expr=_in_patches(mask.expr, width, patch))
    other = plan.with_mask(changed)
    if (other.live_tiles, -other.full_tiles) >= (plan.live_tiles, -plan.full_tiles):
        return
    straddle = f"straddle rows of {width}" if size > width else f"are pieces of rows of {width}"
    yield (
        f"row-major 2-D window: tiles of {size} tokens {straddle}; with the tokens in patches of"
        f" {patch[0]} x {patch[1]}, one patch after the other, {other.live_tiles} tiles are live"
        f" (now {plan.live_tiles}), {_share(other):.0%} of them full (now {_share(plan):.0%});"
        f" stdlib.TileOrder(({plan.q_len // width}, {width}), {patch}) orders tokens so, and"
        " mask.in_order(order) the mask"
    )


def _share(plan: BlockPlan) -> float:
    return plan.full_tiles / plan.live_tiles if plan.live_tiles else 0.0


def _width_of_grid(expr: Expr) -> int | None:
    """w where q and kv stand in `x // w` and `x % w` only, both of them in each."""
    coordinates = {n for n in walk(expr) if n.op in (Op.FLOORDIV, Op.MOD) and n.args[0] in (Q, KV)}
    widths = {n.args[1] for n in coordinates}
    if len(coordinates) != 4 or len(widths) != 1:
        return None
    rest = substitute(expr, dict.fromkeys(coordinates, const(0)))
    width = widths.pop().attribute
    if rest.variables & {"q", "kv"} or not isinstance(width, int) or width < 2:
        return None
    return width


def _patch(size: int, width: int, rows: int) -> tuple[int, int] | None:
    """Height and width of the squarest patch of `size` tokens that the grid is made of."""
    shapes = ((n, size // n) for n in range(2, size + 1) if size % n == 0)
    fitting = [(n, m) for n, m in shapes if rows % n == 0 and width % m == 0]
    return min(fitting, key=lambda shape: abs(shape[0] - shape[1]), default=None)


def _in_patches(expr: Expr, width: int, patch: tuple[int, int]) -> Expr:
    """The mask where position n is the token of patch n // size, row by row of patches."""
    height, breadth = patch
    size, across = height * breadth, width // breadth
    new: dict[Expr, Expr] = {}
    for x in (Q, KV):
        number, inside = apply(Op.FLOORDIV, x, const(size)), apply(Op.MOD, x, const(size))
        for op, n, steps in ((Op.FLOORDIV, height, breadth), (Op.MOD, breadth, breadth)):
            corner = apply(Op.MUL, apply(op, number, const(across)), const(n))
            new[apply(op, x, const(width))] = apply(Op.ADD, corner, apply(op, inside, const(steps)))
    return substitute(expr, new)
