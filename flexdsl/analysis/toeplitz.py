"""Masks that know q and kv by their difference alone: one look at each difference counts all pairs.

A dilated window of 16384 tokens has 33 million pairs inside its band, and 32767 differences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.affine import LinearForms
from flexdsl.analysis.scene import Scene, chunks
from flexdsl.ir import Capture, Expr, Op, Type, apply, const, evaluate, load, var, walk

Array = NDArray[Any]
DIFFERENCES = 1 << 18  # evaluated at once


def of_difference(mask: Expr) -> Expr | None:
    """`mask` as an expression in which "q" is q - kv; None if it needs more than that."""
    result = by_difference(mask)[mask]
    return None if "kv" in result.variables else result


def by_difference(root: Expr) -> dict[Expr, Expr]:
    """Each node below `root` as an expression in which "q" is q - kv, and kv cancelled if it can.

    They are equal in whole numbers: nothing of floating point is turned.
    """
    forms = LinearForms()
    done = {var("q"): apply(Op.ADD, var("q"), var("kv"))}
    for node in walk(root):
        if node in done:
            continue
        args = tuple(done[a] for a in node.args)
        if isinstance(node.attribute, Capture):
            done[node] = load(node.attribute, *args)
        elif node.args:
            done[node] = _cancelled(apply(node.op, *args), forms)
        else:
            done[node] = node
    return done


def _cancelled(node: Expr, forms: LinearForms) -> Expr:
    """The node with like terms of q and kv cancelled in it."""
    if node.type is Type.INDEX:
        return forms.of(node).to_expr()
    if node.type is Type.BOOL and node.args and node.args[0].type is Type.INDEX:
        return apply(node.op, forms.difference(*node.args).to_expr(), const(0))
    return node


def count_by_difference(scene: Scene, mask: Expr) -> int:
    """Allowed pairs of all batches and heads of a mask of the difference (`of_difference`)."""
    grid, total = scene.grid, 0
    first, last = grid.q_offset - grid.kv_len + 1, grid.q_offset + grid.q_len - 1
    groups = np.divmod(np.arange(grid.batch * grid.heads)[:, None], max(grid.heads, 1))
    for part in chunks(last - first + 1, DIFFERENCES):
        difference = np.arange(part.start, part.stop) + first
        variables = {"b": groups[0], "h": groups[1], "q": difference}
        allowed = np.broadcast_to(
            evaluate(mask, variables, scene.bindings.all), (len(groups[0]), len(difference))
        )
        # Rows that have a key at this difference: row - key, with both inside.
        away = difference - grid.q_offset
        pairs = np.minimum(grid.q_len, grid.kv_len + away) - np.maximum(0, away)
        total += int((allowed * pairs).sum())
    return total
