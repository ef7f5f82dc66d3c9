"""Binding: from the mods of a call to a `Problem` that an executor can run.

Captures are checked and given to the executor as tensors; nothing is moved between devices. Plans
and the checks of captures' ranges are remembered (`memory.py`), so that they cost nothing on the
next call, and a change of a capture in place is seen. No argument but mask and score is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flexdsl.analysis import BlockPlan, check_loads, make_plan
from flexdsl.errors import CaptureError, PlanError
from flexdsl.ir import Expr, Kind, Program, captures_of, rename_apart
from flexdsl.mod import Mod, as_mod, from_program
from flexdsl.runtime.memory import Memory

# The most recent plans, and checks of ranges, that are kept. A plan keeps its captures alive.
REMEMBERED = 16
_PLANS = Memory(REMEMBERED)
_CHECKS = Memory(REMEMBERED)


@dataclass(frozen=True, slots=True)
class Lengths:
    """The extents of a call: batches, query heads, queries, keys, position of the first query."""

    batch: int
    heads: int
    q_len: int
    kv_len: int
    q_offset: int


@dataclass(frozen=True, eq=False)
class Bound:
    """The mask and score of one call, read once.

    Attributes:
        mask, score: their programs. No name in one means another thing in the other.
        mask_function, score_function: the same as functions of plain numbers, for the reference.
        mask_values, score_values: numbers and tensors on the device of q, by name.
        plan: the plan that the user gave as mask, else None.
        lengths: of the call.
        clamped: loads of either whose index can leave its tensor at a pair that does not count.
    """

    mask: Program | None
    score: Program | None
    mask_function: Mod | None
    score_function: Mod | None
    mask_values: Mapping[str, Any]
    score_values: Mapping[str, Any]
    plan: BlockPlan | None
    lengths: Lengths
    clamped: frozenset[Expr]


def bind(mask: Any, score: Any, lengths: Lengths, device: torch.device) -> Bound:
    """Read the mask and score of a call and check what they capture.

    Raises:
        KindError: one is neither a Mod of its kind, a function, text nor (a mask) a BlockPlan.
        PlanError: a plan is for other lengths.
        CaptureError, IndexRangeError: a captured tensor does not fit the call.
    """
    plan = mask if isinstance(mask, BlockPlan) else None
    if plan is not None:
        plan = plan if plan.outer == "q" else plan.transposed()
        check_plan(plan, lengths)
        mask = None if plan.mask is None else from_program(plan.mask)
    mask_mod = None if mask is None else as_mod(mask, Kind.MASK)
    score_mod = None if score is None else as_mod(score, Kind.SCORE)
    mask_program = None if mask_mod is None else mask_mod.program
    score_program = None if score_mod is None else score_mod.program
    if mask_program is not None and score_program is not None:
        score_program = rename_apart(score_program, mask_program.values)
    return Bound(
        mask_program,
        score_program,
        mask_mod,
        score_mod,
        bound_values(mask_program, device),
        bound_values(score_program, device),
        plan,
        lengths,
        check_ranges(mask_program, None, lengths)
        | check_ranges(score_program, mask_program, lengths),
    )


def check_ranges(
    program: Program | None, mask: Program | None, lengths: Lengths
) -> frozenset[Expr]:
    """Prove, once while nothing changes, that `program` reads its captures inside their ranges.

    Args:
        mask: what a score modification is used under.

    Returns:
        The loads whose index can leave its tensor at a pair that does not count.

    Raises:
        IndexRangeError: an index leaves its tensor at a pair that counts.
    """
    if program is None:
        return frozenset()

    def check() -> frozenset[Expr]:
        values = {**program.values, **({} if mask is None else mask.values)}
        sizes = lengths.q_len, lengths.kv_len, lengths.batch, lengths.heads, lengths.q_offset
        mask_expr = None if mask is None else mask.expr
        return check_loads(program.expr, mask_expr, *sizes, values, program.spans)

    return _CHECKS.get((program, mask), lengths, check)


def bound_values(program: Program | None, device: torch.device) -> dict[str, Any]:
    """The values of a program for an executor on `device`: captures as torch tensors.

    Raises:
        CaptureError: a capture has no value, or is on another device.
    """
    if program is None:
        return {}
    values = dict(program.values)
    for capture in captures_of(program.expr):
        value = values.get(capture.name)
        if value is None:
            raise CaptureError(
                f"{program.name} needs the tensor {capture.name}, and has none",
                why="text declares a captured tensor, but does not hold its elements",
                fix="the function form, which captures the tensor itself",
            )
        tensor = torch.tensor(value, device=device) if isinstance(value, np.ndarray) else value
        if tensor.device != device:
            raise CaptureError(
                f"{capture.name}, captured by {program.name}, is on {tensor.device},"
                f" but q, k and v are on {device}",
                why="attention moves nothing between devices by itself",
                fix=f"{capture.name} = torch.as_tensor({capture.name}, device={str(device)!r})",
            )
        values[capture.name] = tensor
    return values


def _clamped_loads(
    mask: Program | None, score: Program | None, lengths: Lengths
) -> frozenset[Expr]:
    """The loads that a kernel must clamp, once all are proven to stay inside at allowed pairs."""
    found: frozenset[Expr] = frozenset()
    for program, under in ((mask, None), (score, mask)):
        if program is None or not captures_of(program.expr):
            continue

        def check(program: Program = program, under: Program | None = under) -> frozenset[Expr]:
            values = {**program.values, **(under.values if under is not None else {})}
            return check_loads(
                program.expr,
                None if under is None else under.expr,
                lengths.q_len,
                lengths.kv_len,
                lengths.batch,
                lengths.heads,
                lengths.q_offset,
                values,
                program.spans,
            )

        found |= _CHECKS.get((program, under), lengths, check)
    return found


def find_plan(program: Program | None, lengths: Lengths, tile: tuple[int, int]) -> BlockPlan:
    """The plan of a mask, made at most once while its captures do not change."""
    used = program.expr.variables if program is not None else frozenset[str]()
    batch = lengths.batch if "b" in used else 1
    heads = lengths.heads if "h" in used else 1

    def make() -> BlockPlan:
        return make_plan(
            program,
            lengths.q_len,
            lengths.kv_len,
            batch=batch,
            heads=heads,
            tile=tile,
            q_offset=lengths.q_offset,
        )

    key = (batch, heads, lengths.q_len, lengths.kv_len, lengths.q_offset, tile)
    return _PLANS.get((program,), key, make)


def check_plan(plan: BlockPlan, lengths: Lengths) -> None:
    """Raise `PlanError` unless a plan that the user gave belongs to the call."""
    wanted = {"q_len": lengths.q_len, "kv_len": lengths.kv_len, "q_offset": lengths.q_offset}
    if plan.depends_on_batch:
        wanted["batch"] = lengths.batch
    if plan.depends_on_head:
        wanted["heads"] = lengths.heads
    for name, value in wanted.items():
        if getattr(plan, name) != value:
            raise PlanError(
                f"the plan is for {name}={getattr(plan, name)}, but the call has {name}={value}",
                why="a plan says which tiles of one attention matrix are live",
                fix="mask=the mod itself, or fx.plan(mod, ...) with the lengths of q and k",
            )
