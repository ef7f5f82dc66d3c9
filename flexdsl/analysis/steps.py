"""The range of a node from those of its operands: what a box, the bindings and the table give.

Boxes are given from outside. What is known of a node by its form, as that like terms cancel, is for
`truth.py`, whose judges take these steps wherever they know nothing better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from flexdsl.analysis.domain import (
    FALSE,
    HALF,
    LIMIT,
    TRUE,
    UNBOUNDED,
    Array,
    Interval,
    Truth,
    Value,
    index_interval,
)
from flexdsl.analysis.interval import TRANSFER
from flexdsl.analysis.values import Bindings
from flexdsl.ir import Capture, Expr, Op, Type, walk

Box = Mapping[str, tuple[Array, Array]]  # inclusive int64 range of each variable, one lane a box
Known = dict[Expr, Value]
Step = Callable[[Known, Box], Value]


def plain_ranges(exprs: Iterable[Expr], bindings: Bindings, box: Box) -> dict[Expr, Value]:
    """Of every node of expressions, each by the ranges of its operands alone.

    A `Judge` knows more, of like terms that cancel, and takes several times as long.
    """
    known: Known = {}
    with np.errstate(all="ignore"):
        for node in walk(*exprs):
            known[node] = step_of(node, bindings)(known, box)
    return known


def step_of(node: Expr, bindings: Bindings) -> Step:
    """What a node computes of its operands."""
    match node.op:
        case Op.CONST:
            value = _constant(node)
            return lambda known, box: value
        case Op.VAR:
            return partial(_variable_step, str(node.attribute))
        case Op.PARAM:
            low, high = bindings.ranges[str(node.attribute)]
            anywhere = index_interval(low, high, max(abs(low), abs(high)))
            return lambda known, box: anywhere
        case Op.LOAD:
            return partial(_load_step, node, bindings)
        case _:
            return partial(_transfer_step, node)


def _constant(node: Expr) -> Value:
    value = node.attribute
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, int):
        return index_interval(value, value, abs(value))
    assert isinstance(value, float)
    if np.isnan(value):
        return Interval(np.asarray(-np.inf), np.asarray(np.inf), 0, np.True_)
    return Interval(np.asarray(value), np.asarray(value))


def _variable_step(name: str, known: Known, box: Box) -> Value:
    lo, hi = box[name]
    # Positions and counts are natural numbers: the largest upper end bounds the magnitude.
    return Interval(lo, hi, abs(int(hi.max())) if hi.size else 0)


def _load_step(node: Expr, bindings: Bindings, known: Known, box: Box) -> Value:
    """From the array's extremes over the index ranges; a range past the array is cut to it.

    An array that is not bound may hold anything.
    """
    assert isinstance(node.attribute, Capture)
    array = bindings.arrays.get(node.attribute.name)
    indices = [interval_of(known[a]) for a in node.args]
    if array is None or not array.size:
        return UNBOUNDED if node.type is Type.INDEX else _unknown(node.type)
    table = bindings.table(node.attribute.name)
    lo, hi = table.extremes([i.lo for i in indices], [i.hi for i in indices])
    if node.type is Type.BOOL:
        return Truth(lo != 0, hi != 0)
    if node.type is Type.FLOAT:
        lo, hi = lo.astype(np.float64), hi.astype(np.float64)
        nan = np.isnan(lo) | np.isnan(hi)
        return Interval(np.where(nan, -np.inf, lo), np.where(nan, np.inf, hi), 0, nan)
    lo, hi = lo.astype(np.int64), hi.astype(np.int64)
    # A huge negative number has no int64 magnitude: the two ends are bounded apart.
    magnitude = table.magnitude
    if magnitude >= HALF and lo.size:
        magnitude = max(abs(int(lo.min())), abs(int(hi.max())))
    if magnitude < HALF:
        return Interval(lo, hi, magnitude)
    return Interval(
        np.where(lo <= -HALF, -LIMIT, np.minimum(lo, LIMIT)),
        np.where(hi >= HALF, LIMIT, np.maximum(hi, -LIMIT)),
        LIMIT,
    )


def _unknown(type: Type) -> Value:
    if type is Type.BOOL:
        return Truth(np.asarray(False), np.asarray(True))
    return Interval(np.asarray(-np.inf), np.asarray(np.inf), 0, np.True_)


def _transfer_step(node: Expr, known: Known, box: Box) -> Value:
    return TRANSFER[node.op](*(known[a] for a in node.args))


def interval_of(value: Value) -> Interval:
    """The value of a number."""
    assert isinstance(value, Interval)
    return value
