"""Batches and heads that a mask treats alike, of which one is planned for all.

Heads that differ in `h % 4` alone are four kinds, however many there are. What a mask makes of b
and h alone is computed for all of them; equal numbers mean equal masks. No pair is looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.grid import Grid
from flexdsl.analysis.values import Bindings
from flexdsl.ir import Expr, evaluate

Array = NDArray[Any]


def like_groups(mask: Expr, bindings: Bindings, grid: Grid) -> Array:
    """For each group b * heads + h the first one with an equal mask: int64 [batch * heads]."""
    count = grid.batch * grid.heads
    b, h = np.divmod(np.arange(count), max(grid.heads, 1))
    first, kind = np.zeros(min(count, 1), np.int64), np.zeros(count, np.int64)
    for part in parts_of_groups(mask):
        values = evaluate(part, {"b": b, "h": h}, bindings.all)
        kinds, of_part = np.unique(np.broadcast_to(values, count), return_inverse=True)
        # Equal numbers have been equal in all parts so far.
        kind *= len(kinds)
        kind += of_part
        _, first, kind = np.unique(kind, return_index=True, return_inverse=True)
    return np.asarray(first[kind])


def parts_of_groups(mask: Expr) -> list[Expr]:
    """The largest parts of a mask that know b or h, and neither q nor kv."""
    found: dict[Expr, None] = {}
    seen: set[Expr] = set()
    stack = [mask]
    while stack:
        node = stack.pop()
        if node in seen or not node.variables:
            continue
        seen.add(node)
        if node.variables <= {"b", "h"}:
            found[node] = None
        else:
            stack.extend(node.args)
    return list(found)
