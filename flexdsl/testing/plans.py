"""The block plan against brute force: each tile, the pairs, empty rows, both axes; algebra."""

from __future__ import annotations

from typing import Any

import numpy as np

from flexdsl.analysis import BlockPlan
from flexdsl.mod import parse
from flexdsl.plans import plan
from flexdsl.testing.case import Case
from flexdsl.testing.function import Disagreement
from flexdsl.testing.subject import Subject

STATES = ("empty", "partial", "full")


def plan_of(mask: Any, case: Case) -> BlockPlan:
    """`fx.plan` of a mask for a case."""
    made: BlockPlan = plan(
        mask,
        case.q_len,
        case.kv_len,
        batch=case.batch,
        heads=case.heads,
        tile=case.tile,
        q_offset=case.q_offset,
    )
    return made


def check_plan(subject: Subject, case: Case, allowed: Any) -> BlockPlan:
    """Hold the plan of the subject's mask against `allowed`, bool [B, H, Lq, Lkv].

    Raises:
        Disagreement: a tile, the pairs, the empty rows or the transposed plan are wrong.
    """
    made = plan_of(subject.mask, case)
    expected = states_of(allowed, case.tile)
    _compare_tiles(made, made.to_dense(), expected, "plan")
    _compare_tiles(made, _states_by_runs(made, case), expected, "plan's runs")
    transposed = made.transposed()
    by_runs = _states_by_runs(transposed, case).transpose(0, 1, 3, 2)
    _compare_tiles(transposed, by_runs, expected, "transposed plan's runs")
    for name, found, wanted in (
        ("pairs", made.pairs, int(allowed.sum())),
        ("live_tiles", made.live_tiles, int((expected > 0).sum())),
        ("may_have_empty_rows", made.may_have_empty_rows, not bool(allowed.any(3).all())),
    ):
        if found != wanted:
            raise Disagreement(f"plan.{name} is {found}, but counting gives {wanted}")
    return made


def check_algebra(subject: Subject, case: Case, made: BlockPlan) -> None:
    """`mask & ~mask` is nothing, `mask | ~mask` everything, `mask & everything` the mask.

    Args:
        made: the checked plan of the mask.

    Raises:
        Disagreement: their plans say otherwise.
    """
    mask = subject.mask
    if mask is None:
        return
    states = made.to_dense()
    full = parse("mask everything(length: int = 2147483647) = kv < length and q >= 0")
    everything = case.batch * case.heads * case.q_len * case.kv_len
    for name, mod, pairs, wanted in (
        ("mask & ~mask", mask & ~mask, 0, np.zeros_like(states)),
        ("mask | ~mask", mask | ~mask, everything, np.full_like(states, 2)),
        ("mask & everything", mask & full, made.pairs, states),
        ("mask | nothing", mask | ~full, made.pairs, states),
    ):
        other = plan_of(mod, case)
        if other.pairs != pairs:
            raise Disagreement(f"{name} has {pairs} pairs, but its plan says {other.pairs}")
        _compare_tiles(other, other.to_dense(), wanted, f"plan of {name}")


def states_of(allowed: Any, tile: tuple[int, int]) -> Any:
    """0 empty, 1 partial, 2 full of every tile, by counting its pairs: [B, H, rows, columns]."""
    rows, columns = (-(-n // t) for n, t in zip(allowed.shape[2:], tile, strict=True))
    states = np.zeros((*allowed.shape[:2], rows, columns), np.int8)
    for i in range(rows):
        band = allowed[:, :, i * tile[0] : (i + 1) * tile[0]]
        for j in range(columns):
            block = band[..., j * tile[1] : (j + 1) * tile[1]]
            states[:, :, i, j] = block.any((2, 3)).astype(np.int8) + block.all((2, 3))
    return states


def _states_by_runs(made: BlockPlan, case: Case) -> Any:
    """The states as an executor reads them, outer axis before inner."""
    tiles = made.q_tiles, made.kv_tiles
    outer, inner = tiles if made.outer == "q" else tiles[::-1]
    states = np.zeros((case.batch, case.heads, outer, inner), np.int8)
    for b, h, n in np.ndindex(states.shape[:3]):
        for run in made.runs(b, h, n):
            states[b, h, n, run.start : run.stop] += 1 + run.full
    return states


def _compare_tiles(made: BlockPlan, found: Any, expected: Any, what: str) -> None:
    if found.shape != expected.shape:
        shapes = f"{list(found.shape)}, but should have {list(expected.shape)}"
        raise Disagreement(f"the {what} ({made.kind}) cover tiles {shapes}: [b, h, rows, columns]")
    wrong = np.argwhere(found != expected)
    if len(wrong):
        b, h, i, j = (int(x) for x in wrong[0])
        says, wanted = int(found[b, h, i, j]), int(expected[b, h, i, j])
        name = STATES[says] if says < len(STATES) else "in two runs"
        raise Disagreement(
            f"the {what} ({made.kind}) say{'' if what.endswith('runs') else 's'} that tile (b={b},"
            f" h={h}, i={i}, j={j}) is {name}, but by its pairs it is {STATES[wanted]}"
        )
