"""What is to be compiled: the kernels of a variant for a target, each with its configurations.

A job has everything that its machine code depends on, and crosses processes. Nothing is compiled
here, and triton is not imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from flexdsl.analysis.gradient import learned_loads
from flexdsl.aot.targets import Target
from flexdsl.bundle.manifest import Reads
from flexdsl.codegen import (
    Argument,
    Kernel,
    KernelSpec,
    Phase,
    Role,
    backward_phases,
    backward_reason,
    reason_not_covered,
    unbound_spec,
)
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.errors import ArgumentError
from flexdsl.ir import Capture, Program, Type, captures_of, params_of
from flexdsl.runtime.call import OF_ROWS
from flexdsl.runtime.passes import first_phases
from flexdsl.runtime.tuning import ITEMSIZE, MAX_HEAD_DIM, Config, blocks_config, configs

_TRITON = {"bool": "i1", "f16": "fp16", "f32": "fp32", "f64": "fp64"}
# Element types that a planning kernel reads as another one.
_SUMMARISED = {"i1": "i8", "u8": "i16", **dict.fromkeys(("fp16", "bf16", "fp64"), "fp32")}
# Kernels that make plans; those of a mask, and those of any.
OF_MASKS = (Phase.PLAN_STATES, Phase.PLAN_REFINE)
OF_STATES = (Phase.PLAN_COUNTS, Phase.PLAN_RUNS)
# Those that write a mask as bits.
OF_BITS = (Phase.MASK_BITS, Phase.MASK_BITS_KEY)


@dataclass(frozen=True)
class Job:
    """One kernel to compile: the first of its candidates that fits the target.

    Attributes:
        phase: what it computes.
        target: for which GPU.
        dtype: element type of query, key and value.
        candidates: the kernel in each configuration, fastest first.
        types: triton's names of types of parameters and of elements of captures, by name.
        before: phases whose kernels write what this one reads.
    """

    phase: Phase
    target: Target
    dtype: str
    candidates: tuple[tuple[Kernel, Config], ...]
    types: dict[str, str]
    before: tuple[Phase, ...] = ()

    def made_of(self, tools: dict[str, str]) -> str:
        """SHA-256 of all that the machine code depends on, the versions of `tools` included."""
        kernels = [(k.digest, repr(c), repr(k.arguments)) for k, c in self.candidates]
        parts = [self.phase.value, self.target.name, self.dtype, kernels, self.types, tools]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def type_of(self, argument: Argument) -> str:
        """Triton's type of an argument that is no descriptor."""
        match argument.role:
            case Role.SCALE:
                return "fp32"
            case Role.PARAMETER:
                return self.types[argument.of]
            case Role.CAPTURE | Role.DIFFERENCES:
                return f"*{self.types[argument.of]}"
            case Role.TABLE | Role.COUNTS | Role.COUNTER | Role.MASK_BITS:
                return "*i32"
            case Role.STATES:
                return "*i8"
            case Role.MEMBERS:
                return "*i64"
            case Role.ELEMENTS | Role.EXTREMES:
                return f"*{_SUMMARISED.get(self.types[argument.of], self.types[argument.of])}"
            case Role.FACTORS:
                return "*bf16"
            case Role.TENSOR:
                return f"*{self.dtype}"
            case Role.ROWS | Role.PARTS | Role.SUMS | Role.GRADIENT:
                return "*fp32"
        return "i32"


@dataclass(frozen=True)
class Shape:
    """What kernels are specialised to beside their mods.

    Attributes:
        target: the GPU.
        dtype: "fp16", "bf16" or "fp32".
        head_dim, value_dim: elements of a query and of a value.
    """

    target: Target
    dtype: str
    head_dim: int
    value_dim: int

    def __post_init__(self) -> None:
        if self.dtype not in ITEMSIZE:
            raise ArgumentError(f"dtype is {self.dtype!r}", fix=f"one of {', '.join(ITEMSIZE)}")
        for name, dim in (("head_dim", self.head_dim), ("value_dim", self.value_dim)):
            if not 1 <= dim <= MAX_HEAD_DIM:
                raise ArgumentError(f"{name} is {dim}", fix=f"1 to {MAX_HEAD_DIM} elements")

    @property
    def hopper(self) -> bool:
        """Do a Hopper GPU's own kernels cover it?"""
        capability = self.target.capability
        return reason_not_covered(capability, self.dtype, self.head_dim, self.value_dim) is None


def job_of(
    phase: Phase,
    mask: Program | None,
    score: Program | None,
    shape: Shape,
    learned: Iterable[str] = (),
    *,
    products: bool = False,
    tables: bool = False,
    reads: Reads = "",
) -> Job:
    """The kernel of `phase`, in every configuration that may be tried.

    Args:
        learned: captures of the score whose gradients the backward kernels add up.
        products: those of the score are matrices, which `Phase.FACTORS` writes.
        tables: what it computes from q - kv alone is loaded from tables, which `Phase.DIFFERENCES`
            writes.
        reads: "bits" of the mask, which a phase of `OF_BITS` writes, or the "blocks" that captured
            numbers of it choose; where its plan is a table, in a Hopper GPU's own kernels.

    Raises:
        ArgumentError: the phase is one of the Hopper kernels', which do not cover the shape.
    """
    _check_phase(phase, shape)
    dims = shape.head_dim, shape.value_dim
    spec = unbound_spec(mask, score, *dims, phase, products=products, tables=tables)
    if phase in (*OF_MASKS, *OF_STATES, *OF_BITS):
        spec = KernelSpec(mask, None, None, 0, 0)
    spec = replace(spec, learned=frozenset(learned))
    mods = [p and p.expr for p in (spec.mask, spec.score)]
    if reads == "bits":
        spec = replace(spec, mask=None, mask_bits=True)
    found = configs(
        phase,
        shape.target.capability,
        max(dims),
        ITEMSIZE[shape.dtype],
        *mods,
        hopper=shape.hopper,
    )
    if reads == "blocks":
        spec = replace(spec, skips=True)
        found = (blocks_config(max(dims)),) if phase is Phase.FORWARD else found
    candidates = tuple(
        (GENERATORS[phase, c.language](replace(spec, consumers=c.consumers)), c) for c in found
    )
    before = () if phase in OF_ROWS else first_phases(spec)
    return Job(phase, shape.target, shape.dtype, candidates, _type_names(spec), before)


def of_rows(job: Job, rows: int) -> Job:
    """The job of a kernel of few queries, for programs of so many rows."""
    found = tuple((kernel, replace(config, block_m=rows)) for kernel, config in job.candidates)
    return replace(job, candidates=found)


def in_tiles(job: Job, tile: tuple[int, int]) -> Job:
    """The job of a kernel that makes plans, for plans in such tiles."""
    ((kernel, config),) = job.candidates
    config = replace(config, block_m=tile[0], block_n=tile[1])
    return replace(job, candidates=((kernel, config),))


def backward_phases_of(
    score: Program | None, shape: Shape, learned: tuple[str, ...]
) -> tuple[Phase, ...]:
    """The kernels of the backward pass of a variant and a shape."""
    loads = () if score is None else learned_loads(score.expr, learned)
    reason = backward_reason(shape.head_dim, 0, loads, deterministic=False)
    return backward_phases(loads, hopper=shape.hopper and reason is None)


def plan_kind(kernel: Kernel) -> str:
    """How the kernel knows its tiles.

    That is "closed-form", "table", "bits" for a table and its mask as bits, "blocks" for a table
    for consumers that skip chosen blocks, or "none" where it has no pairs, or makes what others
    know them by.
    """
    no_pairs = {phase.value for phase in (*OF_ROWS, *OF_MASKS, *OF_STATES, *OF_BITS)}
    if kernel.entry in no_pairs:
        return "none"
    if any(a.role is Role.MASK_BITS for a in kernel.arguments):
        return "bits"
    if any(a.role is Role.TABLE and a.of == "kinds" for a in kernel.arguments):
        return "blocks"
    return "table" if any(a.role is Role.TABLE for a in kernel.arguments) else "closed-form"


def _check_phase(phase: Phase, shape: Shape) -> None:
    """Raise `ArgumentError` for a phase of the Hopper kernels that do not cover the shape."""
    if phase not in (Phase.BACKWARD, Phase.BACKWARD_SUMS):
        return
    dims = shape.head_dim, shape.value_dim
    reason = reason_not_covered(shape.target.capability, shape.dtype, *dims)
    reason = reason or backward_reason(shape.head_dim, 0, learned=(), deterministic=False)
    if reason is not None:
        raise ArgumentError(
            f"phase {phase.value!r} is one of the Hopper kernels', which do not cover this",
            why=reason,
            fix="phase='backward_query' for dQ, phase='backward_key' for dK and dV",
        )


def _type_names(spec: KernelSpec) -> dict[str, str]:
    """Triton's name for the type of each parameter and of the elements of each capture."""
    expressions = [p.expr for p in (spec.mask, spec.score) if p is not None]
    expressions += [x for p in spec.products for x in (p.row, p.key)]
    expressions += [t.number for t in spec.tables]
    names: dict[str, str] = {}
    for expr in expressions:
        for param in params_of(expr):
            names[str(param.attribute)] = "i32" if param.type is Type.INDEX else "fp32"
        for capture in captures_of(expr):
            names[capture.name] = element_of(capture)
    return names


def element_of(capture: Capture) -> str:
    """Triton's name of the type of a capture's elements."""
    return _TRITON.get(capture.dtype.value, capture.dtype.value)
