"""Binding: from the mods of a call to what an executor can run.

`read` runs before the operator: it traces the user's functions and puts what they capture on the
device's side. `bind` runs inside it, on programs and values alone. Nothing is moved between
devices. Plans and the checks of captures' ranges are remembered (`memory.py`), so that they cost
nothing on the next call, and a change of a capture in place is seen.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from flexdsl.analysis import BlockPlan, check_loads, make_plan
from flexdsl.analysis.differences import DifferenceTable
from flexdsl.analysis.given import score_given
from flexdsl.analysis.products import Product
from flexdsl.errors import CaptureError, PlanError
from flexdsl.ir import Expr, Kind, Op, Program, captures_of, rename_apart, walk
from flexdsl.mod import Mod, as_mod
from flexdsl.runtime.heads import warn_of_heads
from flexdsl.runtime.memory import Memory, as_tensor
from flexdsl.runtime.problem import Passes

# A mask or score as it is now; a mask that is given as a plan is the plan.
Source = Program | BlockPlan | None

# The most recent plans, and checks of ranges, that are kept. A plan keeps its captures alive.
REMEMBERED = 16
_PLANS = Memory(REMEMBERED)
_CHECKS = Memory(REMEMBERED)
# Counts what `forget` was asked: what was remembered of calls before it is not found.
forgotten = 0


def forget() -> None:
    """Forget all plans, checks and calls: the next call makes its own."""
    global forgotten
    forgotten += 1
    _PLANS.clear()
    _CHECKS.clear()


@dataclass(frozen=True, slots=True)
class Lengths:
    """The extents of a call: batches, query heads, queries, keys, position of the first query."""

    batch: int
    heads: int
    q_len: int
    kv_len: int
    q_offset: int

    @property
    def positions(self) -> dict[str, range]:
        """The values of each variable of a mask."""
        return {
            "b": range(self.batch),
            "h": range(self.heads),
            "q": range(self.q_offset, self.q_offset + self.q_len),
            "kv": range(self.kv_len),
        }


def lengths_of(q: torch.Tensor, k: torch.Tensor, q_offset: int) -> Lengths:
    """The extents of a call on these tensors."""
    return Lengths(q.shape[0], q.shape[1], q.shape[2], k.shape[2], q_offset)


@dataclass(frozen=True, eq=False)
class Reading:
    """The mask and score of one call, read once. Each has its own names.

    Attributes:
        mask, score: their programs, with numbers and with tensors on the device of q.
        plan: the plan that the user gave as mask, else None.
    """

    mask: Program | None
    score: Program | None
    plan: BlockPlan | None


@dataclass(frozen=True, eq=False)
class Bound:
    """What an executor is given to run.

    Attributes:
        mask, score: programs. No name in one means another thing in the other. The score may be
            simpler than the user's, and the same at pairs that the mask allows (`given.py`).
        mask_values, score_values: numbers and tensors on the device of q, by name.
        plan: the plan of the tile that the call asks for, else None.
        lengths: of the call.
        clamped: loads of either whose index can leave its tensor at a pair that does not count.
        learned: names of the captured tensors of the score whose gradients the backward gives.
        products: what kernels add to the scores by a matrix product, before the modification, which
            is without them then (`low_rank.py`).
        tables: what the score loads from tables of q - kv, which a kernel fills before; the values
            that these have in score_values say how they are laid out (`differences.py`).
        written: the score as the user has it, by which bundles know the call.
        passes: of the executor; gone when this object is.
    """

    mask: Program | None
    score: Program | None
    mask_values: Mapping[str, Any]
    score_values: Mapping[str, Any]
    plan: BlockPlan | None
    lengths: Lengths
    clamped: frozenset[Expr]
    learned: tuple[str, ...] = ()
    products: tuple[Product, ...] = ()
    tables: tuple[DifferenceTable, ...] = ()
    written: Program | None = None
    passes: Passes = field(default_factory=lambda: Passes(None, {}), init=False)


def source_of(value: Any, kind: Kind) -> Source:
    """A mask or score as it is now: its program, or the plan that stands for the mask.

    Raises:
        KindError: it is neither a Mod of its kind, a function, text nor (a mask) a BlockPlan.
    """
    if value is None:
        return None
    if isinstance(value, Mod) and value.kind is kind:
        return value.program
    if isinstance(value, BlockPlan) and kind is Kind.MASK:
        return value
    return as_mod(value, kind).program


def read(mask: Source, score: Source, lengths: Lengths, device: torch.device) -> Reading:
    """The mask and score of a call, what they capture checked.

    Raises:
        PlanError: a plan is for other lengths.
        CaptureError: a captured tensor is not there, is elsewhere, or cannot be learned.
    """
    plan = mask if isinstance(mask, BlockPlan) else None
    if plan is not None:
        plan = plan if plan.outer == "q" else plan.transposed()
        check_plan(plan, lengths)
    of_mask, of_score = (with_tensors(program_of(x), device) for x in (mask, score))
    reading = Reading(of_mask, of_score, plan)
    check_learned(captured(reading.mask), captured(reading.score))
    if plan is not None:
        remember_plan(reading.mask, lengths, plan)
    return reading


def program_of(source: Source) -> Program | None:
    """The program of a mask or score."""
    return source.mask if isinstance(source, BlockPlan) else source


def bind(
    mask: Program | None,
    score: Program | None,
    lengths: Lengths,
    tile: tuple[int, int],
    learned: tuple[str, ...] = (),
) -> Bound:
    """What an executor runs, its captures proven to be read inside their ranges.

    Args:
        tile: of the plan; zeros where the executor chooses by itself.
        learned: names in `score` of captured tensors whose gradients are wanted.

    Raises:
        IndexRangeError: an index leaves a captured tensor at a pair that counts.
    """
    if mask is not None and score is not None:
        apart = rename_apart(score, mask.values)
        new = dict(zip(captured(score), captured(apart), strict=True))
        score, learned = apart, tuple(new[name] for name in learned)
    clamped = check_ranges(mask, None, lengths) | check_ranges(score, mask, lengths)
    simpler = score_given(score, mask)
    if simpler is not score and score is not None and simpler is not None:
        clamped |= _clamped_given(simpler, score, mask, lengths)
    return Bound(
        mask,
        simpler,
        {} if mask is None else mask.values,
        {} if score is None else score.values,
        find_plan(mask, lengths, tile) if all(tile) else None,
        lengths,
        clamped,
        learned,
        written=score,
    )


def indices_of(program: Program | None) -> Sequence[torch.Tensor]:
    """Tensors that the indices of loads are made of: their elements decide what is read."""
    if program is None:
        return ()
    loads = (n for n in walk(program.expr) if n.op is Op.LOAD)
    names = {c.name for n in loads for i in n.args for c in captures_of(i)}
    return [x for n, x in captured(program).items() if n in names]


def captured(program: Program | None) -> dict[str, Any]:
    """The tensors that a program loads from, by name, in order of first use."""
    if program is None:
        return {}
    return {c.name: program.values.get(c.name) for c in captures_of(program.expr)}


def check_ranges(
    program: Program | None, mask: Program | None, lengths: Lengths
) -> frozenset[Expr]:
    """Prove, once while nothing changes, that `program` reads its captures inside their ranges.

    Those that have entries of more heads than there are get a warning.

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
        warn_of_heads(program, lengths.heads)
        return _check_loads(program, mask, lengths)

    return _CHECKS.get((program, mask), lengths, check)


def _clamped_given(
    new: Program, written: Program, mask: Program | None, lengths: Lengths
) -> frozenset[Expr]:
    """Loads that a simplified score alone has, and that can leave their tensor at other pairs.

    At pairs that count they read what the written score reads, which has been checked.
    """
    if _loads_in(new.expr) <= _loads_in(written.expr):
        return frozenset()
    key = "simplified", lengths
    return _CHECKS.get((new, mask), key, lambda: _check_loads(new, mask, lengths))


# Asked about the same few scores whenever a graph that torch compiled runs.
@lru_cache(maxsize=512)
def _loads_in(expr: Expr) -> frozenset[Expr]:
    return frozenset(n for n in walk(expr) if n.op is Op.LOAD)


def _check_loads(program: Program, mask: Program | None, lengths: Lengths) -> frozenset[Expr]:
    values = {**program.values, **({} if mask is None else mask.values)}
    sizes = lengths.q_len, lengths.kv_len, lengths.batch, lengths.heads, lengths.q_offset
    mask_expr = None if mask is None else mask.expr
    return check_loads(program.expr, mask_expr, *sizes, values, program.spans)


def kind_of_captures(program: Program) -> str:
    """ "none", "tensors", or "arrays" where some are numpy's, whose elements each call looks at."""
    known: str | None = program.memo.get("kind of captures")
    if known is None:
        found = captured(program).values()
        arrays = any(isinstance(x, np.ndarray) for x in found)
        known = "arrays" if arrays else "tensors" if found else "none"
        program.memo["kind of captures"] = known
    return known


def with_tensors(program: Program | None, device: torch.device) -> Program | None:
    """`program` with each capture as a torch tensor on `device`.

    Raises:
        CaptureError: a capture has no value, or is on another device.
    """
    if program is None:
        return None
    values = dict(program.values)
    found = captured(program)
    for name, value in found.items():
        if value is None:
            raise CaptureError(
                f"{program.name} needs the tensor {name}, and has none",
                why="text declares a captured tensor, but does not hold its elements",
                fix="the function form, which captures the tensor itself",
            )
        values[name] = as_tensor(value, device) if isinstance(value, np.ndarray) else value
        check_device(name, program.name, values[name], device)
    if all(values[n] is v for n, v in found.items()):
        return program
    known = program.memo.get(("with tensors", device))
    if known is None or any(known.values[n] is not values[n] for n in found):
        program.memo["with tensors", device] = known = replace(program, values=values)
    return known


def check_device(name: str, mod: str, tensor: torch.Tensor, device: torch.device) -> None:
    """Raise `CaptureError` unless the tensor `name`, captured by `mod`, is on `device`."""
    if tensor.device != device:
        raise CaptureError(
            f"{name}, captured by {mod}, is on {tensor.device}, but q, k and v are on {device}",
            why="attention moves nothing between devices by itself",
            fix=f"{name} = torch.as_tensor({name}, device={str(device)!r})",
        )


def check_learned(mask: Mapping[str, torch.Tensor], score: Mapping[str, torch.Tensor]) -> None:
    """Raise `CaptureError` where a tensor is to be learned that only the mask loads from.

    Args:
        mask, score: captured tensors of each, by name.
    """
    if not torch.is_grad_enabled():
        return
    for name, tensor in mask.items():
        if tensor.requires_grad and not any(tensor is other for other in score.values()):
            raise CaptureError(
                f"{name} requires a gradient, but only the mask loads from it",
                why="a mask says which pairs count, yes or no, and that has no derivative",
                fix=f"{name}.detach() in the mask; or a score modification, for a soft mask",
            )


def find_plan(program: Program | None, lengths: Lengths, tile: tuple[int, int]) -> BlockPlan:
    """The plan of a mask, made at most once while its captures do not change."""
    batch, heads = _distinct(program, lengths)

    def make() -> BlockPlan:
        return make_plan(
            program,
            lengths.q_len,
            lengths.kv_len,
            batch=batch,
            heads=heads,
            tile=tile,
            q_offset=lengths.q_offset,
            device=_gpu_of(program),
        )

    return _PLANS.get((program,), _plan_key(program, lengths, tile), make)


def _gpu_of(program: Program | None) -> str | None:
    """Where captured tensors of a mask are, if that is a GPU: their plan is made there."""
    devices = (x.device for x in captured(program).values() if isinstance(x, torch.Tensor))
    return next((str(device) for device in devices if device.type != "cpu"), None)


def remember_plan(program: Program | None, lengths: Lengths, plan: BlockPlan) -> None:
    """Let `find_plan` give `plan` for its mask, these lengths and its tile."""
    _PLANS.get((program,), _plan_key(program, lengths, plan.tile_shape), lambda: plan)


def _plan_key(program: Program | None, lengths: Lengths, tile: tuple[int, int]) -> Hashable:
    sizes = lengths.q_len, lengths.kv_len, lengths.q_offset
    return *_distinct(program, lengths), *sizes, tile


def _distinct(program: Program | None, lengths: Lengths) -> tuple[int, int]:
    """Batches and heads that a plan tells apart: 1 where the mask does not depend on them."""
    used = program.expr.variables if program is not None else frozenset[str]()
    return lengths.batch if "b" in used else 1, lengths.heads if "h" in used else 1


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
