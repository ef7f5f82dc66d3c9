"""Lengths at which a mask can be looked at: no longer than its captured tensors allow."""

from __future__ import annotations

from flexdsl.analysis import BlockPlan, check_loads, make_plan
from flexdsl.errors import FlexdslError, IndexRangeError
from flexdsl.ir import Program, captures_of

LENGTH = 512
HEADS = 4


def sample_plan(program: Program) -> BlockPlan | None:
    """A plan of queries as many as keys: LENGTH, or the longest that captured tensors allow.

    None where there is no plan: a tensor of a mod given as text has no elements.
    """
    heads = HEADS if "h" in program.expr.variables else 1
    for count in dict.fromkeys((heads, 1)):
        low, high = 0, LENGTH
        try:
            while low < high:
                middle = high if low == 0 and high == LENGTH else (low + high + 1) // 2
                if _plan(program, middle, count) is not None:
                    low = middle
                else:
                    high = middle - 1
        except FlexdslError:
            return None
        if low:
            return _plan(program, low, count)
    return None


def is_bounded(program: Program, plan: BlockPlan) -> bool:
    """Is the plan as long as captured tensors allow, so that no call has other pairs?"""
    return bool(captures_of(program.expr)) and plan.q_len < LENGTH


def _plan(program: Program, length: int, heads: int) -> BlockPlan | None:
    try:
        check_loads(program.expr, None, length, length, 1, heads, 0, program.values, program.spans)
    except IndexRangeError:
        return None
    made: BlockPlan = make_plan(
        program, length, length, batch=1, heads=heads, tile=(64, 64), q_offset=0
    )
    return made
