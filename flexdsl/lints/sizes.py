"""Lengths at which a mask can be looked at: no longer than its captured tensors allow."""

from __future__ import annotations

from collections.abc import Callable

from flexdsl.analysis import BlockPlan, check_loads, make_plan
from flexdsl.errors import FlexdslError, IndexRangeError
from flexdsl.ir import Program

LENGTH = 512
HEADS = 4


def sample_plan(program: Program) -> BlockPlan | None:
    """A plan of LENGTH queries and keys, or of as many as captured tensors allow.

    None where there is no plan: a tensor of a mod given as text has no elements.
    """
    heads = HEADS if "h" in program.expr.variables else 1
    for count in dict.fromkeys((heads, 1)):
        try:
            lengths = _lengths(program, count)
        except FlexdslError:
            return None
        if lengths is not None:
            made: BlockPlan = make_plan(
                program, *lengths, batch=1, heads=count, tile=(64, 64), q_offset=0
            )
            return made
    return None


def _lengths(program: Program, heads: int) -> tuple[int, int] | None:
    """Queries and keys: as many of both as there may be, then more of each alone."""

    def fits(q_len: int, kv_len: int) -> bool:
        values, spans = program.values, program.spans
        try:
            check_loads(program.expr, None, q_len, kv_len, 1, heads, 0, values, spans)
        except IndexRangeError:
            return False
        return True

    if fits(LENGTH, LENGTH):
        return LENGTH, LENGTH
    both = _largest(lambda n: fits(n, n), 0)
    if both == 0:
        return None
    kv_len = _largest(lambda n: fits(both, n), both)
    return _largest(lambda n: fits(n, kv_len), both), kv_len


def _largest(fits: Callable[[int], bool], low: int) -> int:
    """The largest n in [low, LENGTH] that fits, where `low` does and what fits is a prefix."""
    high = LENGTH
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
