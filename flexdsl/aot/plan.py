"""Which kernels a build has: jobs for each variant and shape, by the digest of their inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import flexdsl
from flexdsl.analysis.chosen_blocks import are_chosen
from flexdsl.analysis.given import score_given
from flexdsl.analysis.products import width_of
from flexdsl.aot.specs import (
    OF_MASKS,
    OF_STATES,
    Job,
    Shape,
    backward_phases_of,
    in_tiles,
    job_of,
    of_rows,
    plan_kind,
)
from flexdsl.aot.worker import Made
from flexdsl.bundle.manifest import Code, Reads
from flexdsl.codegen import OF_KEYS, Phase, backward_reason, unbound_spec
from flexdsl.codegen.hopper.module import GROUP_ROWS
from flexdsl.ir import Program, captures_of, rename_apart
from flexdsl.runtime.call import OF_ROWS, may_read_bits, may_skip_blocks
from flexdsl.runtime.mask_bits import is_worth_bits
from flexdsl.runtime.passes import first_phases
from flexdsl.runtime.splits import ROWS
from flexdsl.runtime.tuning import ITEMSIZE, blocks_config
from flexdsl.variants import Variant


@dataclass(frozen=True)
class Planned:
    """The kernels of a variant for one shape.

    Attributes:
        name: of the variant.
        mask, score: its programs, without a place in a file; no name in one is in the other.
        learned: captures of the score that require a gradient.
        jobs: by digest, in the order of the manifest.
    """

    name: str
    mask: Program | None
    score: Program | None
    shape: Shape
    learned: tuple[str, ...]
    jobs: dict[str, Job]


def tools() -> dict[str, str]:
    """The versions of what builds, by name."""
    return {"flexdsl": flexdsl.__version__, "triton": version("triton")}


def plan_builds(
    variants: Sequence[Variant],
    shapes: Sequence[Shape],
    phases: Collection[str],
    versions: dict[str, str],
) -> list[Planned]:
    """The kernels of attention of every variant and shape.

    Args:
        phases: "forward", and what else is wanted of "backward" and "decode".
    """
    return [_plan(v, shape, phases, versions) for v in variants for shape in shapes]


def _plan(
    variant: Variant, shape: Shape, wanted: Collection[str], versions: dict[str, str]
) -> Planned:
    mask, score = (None if m is None else m.program for m in (variant.mask, variant.score))
    # Where a mod stands in a file is no part of a bundle.
    mask = mask and replace(mask, source="")
    score = score and replace(score, source="")
    if mask is not None and score is not None:
        score = rename_apart(score, mask.values)
    learned = _learned(score) if "backward" in wanted else ()
    of_kernels = score_given(score, mask)
    backward = backward_phases_of(of_kernels, shape, learned) if "backward" in wanted else ()
    phases = (Phase.FORWARD, *backward)
    jobs = [job_of(phase, mask, score, shape, learned) for phase in phases]
    jobs += _prepared_jobs(phases, mask, score, shape, learned)
    beside = [_reading("bits", job, mask, score, shape) for job in jobs if _has_bits(job, mask)]
    with_blocks = [job for job in jobs if _has_blocks(job, mask, shape)]
    beside += [_reading("blocks", job, mask, score, shape) for job in with_blocks]
    jobs += beside
    if "decode" in wanted:
        jobs += _decode_jobs(mask, score, shape)
    by_digest = {job.made_of(versions): job for job in jobs}
    return Planned(variant.name, mask, score, shape, learned, by_digest)


def _prepared_jobs(
    phases: Sequence[Phase],
    mask: Program | None,
    score: Program | None,
    shape: Shape,
    learned: tuple[str, ...],
) -> list[Job]:
    """Kernels that write factors of products and tables of q - kv, and those that read them.

    The forward pass reads all that there are. So does the backward pass, where nothing is learned
    and its kernels are the same as without.
    """
    dims, halves = (shape.head_dim, shape.value_dim), ITEMSIZE[shape.dtype] == 2
    spec = unbound_spec(mask, score, *dims, products=halves, tables=True)
    writing = first_phases(spec)
    if not writing:
        return []
    reading = [phase for phase in phases if phase not in OF_ROWS]
    columns = width_of(spec.products)
    if learned or (shape.hopper and backward_reason(shape.head_dim, 0, (), False, columns)):
        reading = [Phase.FORWARD]
    of_score = {"products": bool(spec.products), "tables": bool(spec.tables)}
    return [job_of(phase, mask, score, shape, **of_score) for phase in (*writing, *reading)]


def _decode_jobs(mask: Program | None, score: Program | None, shape: Shape) -> list[Job]:
    """The kernels of few queries, of programs of each number of rows.

    They have no matrices of products. Where what those leave is in the same tables of q - kv as
    what the forward pass reads, there are kernels that read these, too.
    """
    dims, halves = (shape.head_dim, shape.value_dim), ITEMSIZE[shape.dtype] == 2
    of_forward = unbound_spec(mask, score, *dims, products=halves, tables=True)
    of_few = unbound_spec(mask, score, *dims, Phase.FORWARD_SPLIT, tables=True)
    tabled = bool(of_few.tables) and of_few.tables == of_forward.tables
    jobs = [
        job_of(Phase.FORWARD_SPLIT, mask, score, shape, tables=tables)
        for tables in ((False, True) if tabled else (False,))
    ]
    merge = job_of(Phase.FORWARD_MERGE, None, None, shape)
    return [*(of_rows(job, rows) for job in jobs for rows in ROWS), merge]


def _reading(
    reads: Reads, job: Job, mask: Program | None, score: Program | None, shape: Shape
) -> Job:
    """The kernel like that of `job` that reads the mask as bits, or whose consumers skip blocks."""
    of_score = {"products": Phase.FACTORS in job.before, "tables": Phase.DIFFERENCES in job.before}
    return job_of(job.phase, mask, score, shape, **of_score, reads=reads)


def _has_blocks(job: Job, mask: Program | None, shape: Shape) -> bool:
    """Is there a kernel beside this one whose consumers skip blocks that the mask chooses?"""
    kernel, config = job.candidates[0]
    if mask is None or not shape.hopper or plan_kind(kernel) != "table":
        return False
    if job.phase is Phase.FORWARD:
        config = blocks_config(max(shape.head_dim, shape.value_dim))
    return may_skip_blocks(job.phase, config) and are_chosen(mask.expr, GROUP_ROWS)


def _has_bits(job: Job, mask: Program | None) -> bool:
    """Is there a kernel beside this one that reads the mask as bits?"""
    kernel, config = job.candidates[0]
    if mask is None or not may_read_bits(job.phase, config) or plan_kind(kernel) != "table":
        return False
    return is_worth_bits(mask.expr, "q" if job.phase in OF_KEYS else "kv")


def planning_jobs(planned: Planned, made: Mapping[str, Made], versions: dict[str, str]) -> Planned:
    """The same with the kernels that make plans on the device, for the tiles that were chosen.

    Only a mask that reads captured tensors has its plan made there; its bits are in any case.
    """
    mask = planned.mask
    codes = [made[digest].code for digest in planned.jobs]
    tables = [code for code in codes if code.plan in ("table", "bits", "blocks")]
    if not tables or mask is None:
        return planned
    jobs: list[Job] = []
    for code in (c for c in tables if c.plan == "bits"):
        phase = Phase.MASK_BITS_KEY if Phase(code.phase) in OF_KEYS else Phase.MASK_BITS
        jobs.append(in_tiles(job_of(phase, mask, None, planned.shape), code.tile))
    if captures_of(mask.expr):
        jobs += [job_of(phase, None, None, planned.shape) for phase in OF_STATES]
        for phase in OF_MASKS:
            job = job_of(phase, mask, None, planned.shape)
            jobs += [in_tiles(job, t) for t in dict.fromkeys(map(_planned_tile, tables))]
    return replace(planned, jobs=planned.jobs | {j.made_of(versions): j for j in jobs})


def _planned_tile(code: Code) -> tuple[int, int]:
    """The tile of the plan that a kernel's table is made of: a part of its own where some skip."""
    return (GROUP_ROWS, GROUP_ROWS) if code.plan == "blocks" else code.tile


def _learned(score: Program | None) -> tuple[str, ...]:
    """The captured tensors of a score whose gradients are wanted."""
    if score is None:
        return ()
    names = (c.name for c in captures_of(score.expr))
    return tuple(n for n in names if getattr(score.values.get(n), "requires_grad", False))
