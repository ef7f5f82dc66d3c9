"""Compile a generated kernel to machine code for a GPU that need not be there.

Triton's compiler runs on any machine; it needs the types of the arguments, which the kernel lists.
Nothing is launched and no bundle is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flexdsl.aot.targets import Target, parse_target
from flexdsl.codegen import (
    Argument,
    Kernel,
    KernelSpec,
    Language,
    Phase,
    Role,
    backward_reason,
    parse_phase,
    reason_not_covered,
    unbound_spec,
)
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.errors import ArgumentError, BackendError, TargetError
from flexdsl.ir import Capture, Kind, Program, Type, captures_of, params_of
from flexdsl.mod import as_mod
from flexdsl.runtime.cache import load
from flexdsl.runtime.descriptors import layout_of_blocks, layout_of_rows
from flexdsl.runtime.tuning import MAX_HEAD_DIM, Config, configs

# Names of element types as users write them, and their sizes in bytes.
ITEMSIZE = {"fp16": 2, "bf16": 2, "fp32": 4}
_TRITON = {"bool": "i1", "f16": "fp16", "f32": "fp32", "f64": "fp64"}

# Element types that a planning kernel reads as another one.
_SUMMARISED = {"i1": "i8", "u8": "i16", **dict.fromkeys(("fp16", "bf16", "fp64"), "fp32")}


@dataclass(frozen=True, eq=False)
class Compiled:
    """A kernel in machine code.

    Attributes:
        kernel: what was compiled.
        target: for which GPU.
        config: tile, warps and stages.
        stages: text or bytes of each stage of the compiler by its name: ttir, ttgir, llir, ptx and
            cubin for NVIDIA; amdgcn and hsaco for AMD.
        shared_bytes: shared memory of a program.
    """

    kernel: Kernel
    target: Target
    config: Config
    stages: Mapping[str, str | bytes]
    shared_bytes: int

    @property
    def machine_code(self) -> bytes:
        """The cubin or hsaco file."""
        code = self.stages["cubin" if self.target.backend == "cuda" else "hsaco"]
        assert isinstance(code, bytes)
        return code


def compile_kernel(
    mask: Any = None,
    score: Any = None,
    *,
    target: str = "cuda:90",
    dtype: str = "bf16",
    head_dim: int = 128,
    value_dim: int | None = None,
    phase: str = "forward",
) -> Compiled:
    """Compile a kernel of a mask and a score modification.

    Args:
        mask, score: mods, functions or text; None for none.
        target: a name in `TARGETS`.
        dtype: of query, key and value: "fp16", "bf16" or "fp32".
        head_dim: D, elements of a query and a key.
        value_dim: Dv, elements of a value; D where None.
        phase: "forward"; "backward_query" (dQ) and "backward_key" (dK and dV), or for Hopper
            "backward" (all of them) and "backward_sums"; or another `Phase`.

    Raises:
        TargetError: no such target, or no configuration fits its shared memory.
        ArgumentError: a dtype, head dimension or phase that is not supported.
    """
    where = parse_target(target)
    value_dim = head_dim if value_dim is None else value_dim
    if dtype not in ITEMSIZE:
        raise ArgumentError(f"dtype is {dtype!r}", fix=f"one of {', '.join(ITEMSIZE)}")
    for name, dim in (("head_dim", head_dim), ("value_dim", value_dim)):
        if not 1 <= dim <= MAX_HEAD_DIM:
            raise ArgumentError(f"{name} is {dim}", fix=f"1 to {MAX_HEAD_DIM} elements")
    programs = (
        None if mask is None else as_mod(mask, Kind.MASK).program,
        None if score is None else as_mod(score, Kind.SCORE).program,
    )
    which = parse_phase(phase)
    spec = unbound_spec(*programs, head_dim, value_dim, which)
    _check_phase(which, where, dtype, head_dim, value_dim)
    widest = max(head_dim, value_dim)
    modified = None if spec.score is None else spec.score.expr
    hopper = reason_not_covered(where.capability, dtype, head_dim, value_dim) is None
    size = ITEMSIZE[dtype]
    for config in configs(which, where.capability, widest, size, modified, hopper=hopper):
        spec = replace(spec, consumers=config.consumers)
        kernel = GENERATORS[which, config.language](spec)
        compiled = _compile(kernel, spec, where, dtype, config)
        if compiled.shared_bytes <= _SHARED_LIMIT[where.name]:
            return compiled
    raise TargetError(
        f"no tile size fits the shared memory of {target} at head dimension {head_dim}",
        fix="a smaller head dimension, or a 16-bit dtype",
    )


def _check_phase(phase: Phase, target: Target, dtype: str, head_dim: int, value_dim: int) -> None:
    """Raise `ArgumentError` for a phase of the Hopper kernels that do not cover the call."""
    if phase not in (Phase.BACKWARD, Phase.BACKWARD_SUMS):
        return
    reason = reason_not_covered(target.capability, dtype, head_dim, value_dim)
    reason = reason or backward_reason(head_dim, value_dim, 0, learned=False, deterministic=False)
    if reason is not None:
        raise ArgumentError(
            f"phase {phase.value!r} is one of the Hopper kernels', which do not cover this",
            why=reason,
            fix="phase='backward_query' for dQ, phase='backward_key' for dK and dV",
        )


# Shared memory that one program may use, in bytes: NVIDIA's CUDA programming guide, table of
# technical specifications per compute capability; AMD's CDNA3 and CDNA2 guides, LDS size.
_SHARED_LIMIT = {
    "cuda:80": 163 * 1024,
    "cuda:86": 99 * 1024,
    "cuda:89": 99 * 1024,
    "cuda:90": 227 * 1024,
    "cuda:100": 227 * 1024,
    "cuda:120": 99 * 1024,
    "hip:gfx90a": 64 * 1024,
    "hip:gfx942": 64 * 1024,
}


# Pointers to tensors that the runtime allocates itself: they are multiples of 16 bytes.
_OWN = (Role.ROWS, Role.SUMS, Role.GRADIENT)


def _compile(
    kernel: Kernel, spec: KernelSpec, target: Target, dtype: str, config: Config
) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    if triton.knobs.runtime.interpret:
        raise BackendError(
            "TRITON_INTERPRET=1 is set, and Triton's interpreter makes no machine code",
            fix="unset TRITON_INTERPRET before the process starts",
        )
    types = _type_names(spec)
    signature = {a.name: _signature(a, dtype, config, types) for a in kernel.arguments}
    signature |= dict.fromkeys(kernel.constants, "constexpr")
    names = list(signature)
    constants = {(names.index(n),): config.constants[n] for n in kernel.constants}
    kind = GluonASTSource if kernel.language is Language.GLUON else ASTSource
    aligned = {
        (names.index(a.name),): [["tt.divisibility", 16]]
        for a in kernel.arguments
        if a.role in _OWN
    }
    source = kind(load(kernel), signature, constants, aligned)
    gpu = GPUTarget(target.backend, target.arch, target.warp_size)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    compiled = triton.compile(source, target=gpu, options=options)
    return Compiled(kernel, target, config, dict(compiled.asm), compiled.metadata.shared)


def _type_names(spec: KernelSpec) -> dict[str, str]:
    """Triton's name for the type of each parameter and of the elements of each capture."""
    programs = [p for p in (spec.mask, spec.score) if isinstance(p, Program)]
    names: dict[str, str] = {}
    for program in programs:
        for param in params_of(program.expr):
            names[str(param.attribute)] = "i32" if param.type is Type.INDEX else "fp32"
        for capture in captures_of(program.expr):
            names[capture.name] = _element(capture)
    return names


def _element(capture: Capture) -> str:
    return _TRITON.get(capture.dtype.value, capture.dtype.value)


def _signature(argument: Argument, dtype: str, config: Config, types: Mapping[str, str]) -> str:
    match argument.role:
        case Role.DESCRIPTOR:
            block = f"{dtype}[1, 1, {config.rows(argument)}, {argument.index}]"
            if config.language is Language.TRITON:
                return f"tensordesc<{block}>"
            layout = layout_of_blocks(config.rows(argument), argument.index, ITEMSIZE[dtype])
            return f"tensordesc<{block},{layout!r}>"
        case Role.ROWS:
            return "*fp32"
        case Role.ROWS_DESCRIPTOR:
            count = config.rows(argument)
            return f"tensordesc<fp32[{count}],{layout_of_rows(count)!r}>"
        case Role.SCALE:
            return "fp32"
        case Role.PARAMETER:
            return types[argument.of]
        case Role.CAPTURE:
            return f"*{types[argument.of]}"
        case Role.TABLE | Role.COUNTS:
            return "*i32"
        case Role.STATES:
            return "*i8"
        case Role.MEMBERS:
            return "*i64"
        case Role.ELEMENTS | Role.EXTREMES:
            return f"*{_SUMMARISED.get(types[argument.of], types[argument.of])}"
        case Role.SUMS | Role.GRADIENT:
            return "*fp32"
        case Role.GRADIENT_STRIDE:
            return "i32"
        case Role.SIZE | Role.LENGTH | Role.STRIDE | Role.TABLE_STRIDE:
            return "i32"
