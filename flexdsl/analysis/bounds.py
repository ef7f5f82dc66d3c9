"""Can an index leave its captured tensor? Proven for every load of a program.

An index must lie inside its dimension at every pair that the mask allows and at which the
conditions around the load hold. A violation is a condition like any other: it is proven empty by
subdivision, or a pair is found that shows it. Loads whose index is in range only because of such
conditions are returned, since a kernel that computes whole tiles has to clamp them.

Contents of a tensor that is not on the host are not looked at, since that would wait for it: a load
whose range depends on them is one to clamp, and no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexdsl.analysis.grid import Grid, Rects
from flexdsl.analysis.scene import LANES, POINTS, Scene, chunks
from flexdsl.analysis.subdivide import LEAF
from flexdsl.analysis.truth import Judge
from flexdsl.analysis.values import Bindings, bind, is_constant, specialise
from flexdsl.errors import IndexRangeError, Span
from flexdsl.ir import Capture, Expr, Op, apply, captures_of, const, evaluate, walk

TRUE, FALSE = const(True), const(False)
Pair = dict[str, int]


def check_loads(
    program_expr: Expr,
    mask_expr: Expr | None,
    q_len: int,
    kv_len: int,
    batch: int,
    heads: int,
    q_offset: int,
    values: Mapping[str, Any],
    spans: Mapping[Expr, Span],
) -> frozenset[Expr]:
    """The loads of `program_expr` that a kernel must clamp, once all of them are proven safe.

    Args:
        program_expr: a mask or a score.
        mask_expr: the mask that a score is used under; None where every pair counts.
        values: parameters and captures of both, by name.
        spans: where nodes came from.

    Returns:
        The load nodes whose index leaves its dimension at some (b, h, q, kv) within the sizes, at
        pairs that do not count.

    Raises:
        IndexRangeError: an index leaves its dimension at a pair that counts.
        CaptureError: a capture or a parameter has no value.
    """
    loads = [n for n in walk(program_expr) if n.op is Op.LOAD]
    grid = Grid(q_len, kv_len, (1, 1), q_offset, batch, heads)
    if not loads or grid.is_empty:
        return frozenset()
    exprs = (program_expr,) if mask_expr is None else (program_expr, mask_expr)
    checker = _Checker(grid, bind(values, *exprs), spans)
    conditions = conditions_of(program_expr, TRUE if mask_expr is None else mask_expr)
    return frozenset(n for n in loads if checker.must_clamp(n, conditions[n]))


def conditions_of(root: Expr, condition: Expr) -> dict[Expr, Expr]:
    """For each node, when its value matters: under the conditions of the nodes that use it.

    `where` guards its branches, and the left operand of `and` and `or` guards the right one.
    """
    found = {root: condition}
    for node in reversed(list(walk(root))):
        here = found[node]
        guards = [TRUE] * len(node.args)
        if node.op is Op.WHERE:
            guards[1:] = [node.args[0], apply(Op.NOT, node.args[0])]
        elif node.op is Op.AND:
            guards[1] = node.args[0]
        elif node.op is Op.OR:
            guards[1] = apply(Op.NOT, node.args[0])
        for arg, guard in zip(node.args, guards, strict=True):
            found[arg] = apply(Op.OR, found.get(arg, FALSE), apply(Op.AND, here, guard))
    return found


@dataclass(frozen=True)
class _Checker:
    grid: Grid
    bindings: Bindings
    spans: Mapping[Expr, Span]

    def must_clamp(self, node: Expr, condition: Expr) -> bool:
        """Can an index of this load leave its dimension? Raises if it can at a pair that counts."""
        assert isinstance(node.attribute, Capture)
        clamp = False
        for dimension, index in enumerate(node.args):
            length = self.bindings.arrays.shape(node.attribute.name)[dimension]
            if self._is_remote(index):
                clamp = True
                continue
            low, high = self._range(index)
            if length and low >= 0 and high < length:
                continue
            clamp = True
            outside = apply(
                Op.OR, apply(Op.LT, index, const(0)), apply(Op.GE, index, const(length))
            )
            counts = apply(Op.AND, condition, outside) if length else TRUE
            if self._is_remote(counts):
                continue
            pair = self._find(counts)
            if pair is not None:
                # What is read farthest outside says most about the length that is needed.
                ends = [apply(Op.EQ, index, const(end)) for end in (high, low)] if length else []
                extremes = (self._find(apply(Op.AND, counts, end)) for end in ends)
                worst = next((p for p in extremes if p is not None), pair)
                raise self._error(node, dimension, length, worst)
        return clamp

    def _is_remote(self, expr: Expr) -> bool:
        """Does the value depend on contents that are not on the host?"""
        return any(self.bindings.arrays.is_remote(c.name) for c in captures_of(expr))

    def _range(self, index: Expr) -> tuple[int, int]:
        """The least and the largest value over all pairs, whether they count or not."""
        first, grid = self.grid.q_offset, self.grid
        ends = {
            "b": (0, grid.batch - 1),
            "h": (0, grid.heads - 1),
            "q": (first, first + grid.q_len - 1),
            "kv": (0, grid.kv_len - 1),
        }
        box = {name: (np.array([lo]), np.array([hi])) for name, (lo, hi) in ends.items()}
        found = Judge(index, self.bindings).interval(box)
        return int(found.lo.min()), int(found.hi.max())

    def _find(self, violation: Expr) -> Pair | None:
        """A pair at which the condition holds, or None if there is none."""
        violation = specialise(violation, self.bindings)
        if is_constant(violation, False):
            return None
        grid, needed = self.grid, violation.variables
        # An axis that the condition does not depend on is looked at in one place only.
        small = Grid(
            grid.q_len if "q" in needed else 1,
            grid.kv_len if "kv" in needed else 1,
            (1, 1),
            grid.q_offset,
            grid.batch if "b" in needed else 1,
            grid.heads if "h" in needed else 1,
        )
        return find_pair(Scene(violation, self.bindings, small))

    def _error(self, node: Expr, dimension: int, length: int, pair: Pair) -> IndexRangeError:
        assert isinstance(node.attribute, Capture)
        name, index = node.attribute.name, node.args[dimension]
        variables = {n: np.asarray(v) for n, v in pair.items()}
        value = int(evaluate(index, variables, self.bindings.all)) if length else 0
        at = ", ".join(f"{n} = {v}" for n, v in pair.items())
        counted = {"b": ("batch", self.grid.batch), "h": ("head", self.grid.heads)}
        if index.op is Op.VAR and index.attribute in counted:
            what, count = counted[str(index.attribute)]
            fix = f"a {name} with an entry for each {what} of the call, which has {count}"
        elif index.op is Op.VAR:
            fix = f"a {name} that is as long as the sequence, or a shorter sequence"
        else:
            inside = f"0 <= {index!r} and {index!r} < {length}"
            fix = f"a condition around it, such as: {inside} and ...; or a longer {name}"
        return IndexRangeError(
            f"{name} has {length} elements along dimension {dimension}, "
            f"but element {value} is read",
            why=f"{node!r} reads it at {at}, a pair that counts",
            fix=fix,
            span=self.spans.get(node),
        )


def find_pair(scene: Scene) -> Pair | None:
    """A pair of the scene at which its condition holds; None is a proof that there is none."""
    grid = scene.grid
    b, h = np.divmod(np.arange(grid.batch * grid.heads, dtype=np.int64), max(grid.heads, 1))
    zero = np.zeros_like(b)
    stack = [Rects(b, h, zero, zero + grid.q_len, zero, zero + grid.kv_len)]
    while stack:
        level = stack.pop()
        truth = scene.truth(level)
        if truth.always.any():
            return _first_pair(level[truth.always], scene)
        level = level[truth.maybe]
        small = (level.r1 - level.r0 <= LEAF) & (level.c1 - level.c0 <= LEAF)
        found = _search_leaves(scene, level[small])
        if found is not None:
            return found
        level = level[~small]
        if len(level):
            height, width = int((level.r1 - level.r0).max()), int((level.c1 - level.c0).max())
            level, _ = level.split(max(LEAF, -(-height // 4)), max(LEAF, -(-width // 4)))
            stack.extend(level[part] for part in chunks(len(level), LANES))
    return None


def _search_leaves(scene: Scene, rects: Rects) -> Pair | None:
    for part in chunks(len(rects), POINTS // LEAF**2):
        allowed, inside = scene.cells(rects[part])
        where = np.argwhere(allowed & inside)
        if len(where):
            k, row, column = (int(x) for x in where[0])
            rect = rects[part][k : k + 1]
            return _first_pair(rect, scene, row, column)
    return None


def _first_pair(rects: Rects, scene: Scene, row: int = 0, column: int = 0) -> Pair:
    return {
        "b": int(rects.b[0]),
        "h": int(rects.h[0]),
        "q": int(rects.r0[0]) + row + scene.grid.q_offset,
        "kv": int(rects.c0[0]) + column,
    }
