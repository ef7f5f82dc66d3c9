"""Rows that tell what all rows of a tile have, where bounds are by rows.

A captured tensor has the same value in many rows that follow one another, as the start of a
document has in all of its rows. While all that is loaded stays the same, ends are functions of the
position. If they do not move together then, each row has what the one before it has and more, or
less: the outermost two have the extremes of all, and one of them every position that any has. If
they do not move at all, one row is like the others. The same is true of several intervals together
if all of them grow, or all shrink. Contents are compared here; ends are evaluated in
`closed_runs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.affine import LinearForms
from flexdsl.analysis.closed_form import Interval
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.scene import chunks
from flexdsl.analysis.tile_bounds import direction
from flexdsl.analysis.values import substitute
from flexdsl.ir import Capture, Expr, Op, const, load, var, walk

Array = NDArray[Any]
Intervals = tuple[Interval, ...]
TOGETHER = 1 << 16  # rows whose elements are compared at once


@dataclass(frozen=True, slots=True)
class _Read:
    """A captured tensor whose index at one dimension is the position and a number."""

    name: str
    dimension: int
    shift: int


def telling_rows(intervals: Intervals, prover: Prover, size: int) -> Array | None:
    """The rows that tell, the first one of each tile among them: indices from 0 that ascend, some
    of them twice. None where each row may tell something else.

    Args:
        intervals: which are asked about together.
        size: rows of a tile.
    """
    ends = [end for i in intervals for end in (i.lower, i.upper)]
    loads = [n for n in walk(*ends) if n.op is Op.LOAD and prover.outer in n.variables]
    # Loads of which nothing is known but that they are no function of the row; no two are alike.
    still = {node: _elsewhere(node, k) for k, node in enumerate(loads)}
    moves = [direction(substitute(end, still), prover) for end in ends]
    reads = {_read(n, k, still, prover.outer) for n in loads for k in range(len(n.args))}
    grows = [_growth(*pair) for pair in zip(moves[::2], moves[1::2], strict=True)]
    if None in grows or None in reads or {1, -1} <= set(grows):
        return None
    starts = _starts([r for r in reads if isinstance(r, _Read)], prover, size)
    if not any(grows):
        return starts
    told = np.repeat(starts, 2)
    told[1:-1:2], told[-1] = starts[1:] - 1, prover.positions[1] - 1
    return told


def _growth(low: int | None, high: int | None) -> int | None:
    """1 of an interval that grows from row to row, -1 of one that shrinks, 0 of one that stays, by
    the directions of its ends; None where neither is known.
    """
    if low is None or high is None or low * high == 1:
        return None
    return high or -low


def _elsewhere(node: Expr, number: int) -> Expr:
    assert isinstance(node.attribute, Capture)
    return load(node.attribute, const(number), *[const(0)] * (len(node.args) - 1))


def _read(node: Expr, dimension: int, still: dict[Expr, Expr], outer: str) -> _Read | bool | None:
    """How an index of a load follows the row; False if by what is loaded for it alone, or not at
    all, None if in another way.
    """
    index = substitute(node.args[dimension], still)
    if outer not in index.variables:
        return False
    form = LinearForms().of(index)
    if form.terms != ((var(outer), 1),):
        return None
    assert isinstance(node.attribute, Capture)
    return _Read(node.attribute.name, dimension, form.constant)


def _starts(reads: list[_Read], prover: Prover, size: int) -> Array:
    """The rows with which tiles begin, and those in which something else is read than in the one
    before, at any other indices.
    """
    first, length = prover.positions
    lines = [
        (line, first + read.shift)
        for read in reads
        for line in _lines(prover.bindings.arrays[read.name], read.dimension)
    ]
    found = [np.zeros(1, np.int32)]
    for part in chunks(length - 1, TOGETHER):
        opens = np.zeros(part.stop - part.start, np.bool_)
        opens[-(part.start + 1) % size :: size] = True
        for line, shift in lines:
            _compare(line, part.start + shift, opens)
        found.append((np.flatnonzero(opens) + part.start + 1).astype(np.int32))
    return np.concatenate(found)


def _lines(array: Array, dimension: int) -> Array:
    """The elements along a dimension, at all indices of the others: [others, length]."""
    return np.moveaxis(array, dimension, -1).reshape(-1, array.shape[dimension])


def _compare(line: Array, start: int, opens: Array) -> None:
    """Mark where the elements after `start` are others than the ones before them.

    Outside of the line its nearest element is read, so that nothing changes there.
    """
    low, high = max(start, 0), min(start + len(opens), len(line) - 1)
    if low < high:
        opens[low - start : high - start] |= line[low + 1 : high + 1] != line[low:high]
