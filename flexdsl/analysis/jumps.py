"""Where the rounded numbers of a mask jump: the positions at which `x // T` and `x % T` start anew.

An interval tells little of `q % T` over a range that holds a multiple of T, and nothing is lost on
either side of it. So a rectangle that no proof decides is cut there before it is cut anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.affine import LinearForms, divisor_of
from flexdsl.ir import Expr, Op, Type, walk

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Jump:
    """A jump at every position x of an axis with (x + phase) % period == 0."""

    period: int
    phase: int


def jumps_of(mask: Expr, axis: str) -> list[Jump]:
    """The jumps of a mask's quotients and remainders along `axis`, longest periods first.

    Known are those of the position, shifted or divided by constants: (q // 64 + 3) % 5.
    """
    forms = LinearForms()
    rounded: dict[Expr, Jump] = {}  # nodes that are (position + phase) // period
    found: dict[Jump, None] = {}
    for node in walk(mask):
        if node.type is not Type.INDEX:
            continue
        if node.op is Op.VAR and node.attribute == axis:
            rounded[node] = Jump(1, 0)
            continue
        divisor = node.args[1].attribute if node.op is Op.MOD else divisor_of(node)
        if not isinstance(divisor, int) or divisor < 2:
            continue
        form = forms.of(node.args[0])
        terms = [t for t in form.terms if t[0] in rounded]
        if len(form.terms) != 1 or not terms or terms[0][1] != 1:
            continue
        inner = rounded[terms[0][0]]
        jump = Jump(inner.period * divisor, inner.phase + form.constant * inner.period)
        found[jump] = None
        if node.op is not Op.MOD:
            rounded[node] = jump
    return sorted(found, key=lambda jump: -jump.period)


def first_jump(jumps: list[Jump], offset: int, start: Array, stop: Array) -> Array:
    """The first jump inside each range [start, stop) of the longest period that has one: int64 [n].

    A range without one has `stop`; its start is none inside of it. Periods that are short beside
    the longest range are left out, since it takes many cuts to be rid of them.

    Args:
        offset: position of index 0.
    """
    start, stop = start.astype(np.int64), stop.astype(np.int64)
    found = stop
    least = int((stop - start).max(initial=0)) // 4
    for jump in jumps:
        if jump.period > least:
            at = start + 1 + -(start + 1 + offset + jump.phase) % jump.period
            found = np.where((found == stop) & (at < stop), at, found)
    return found
