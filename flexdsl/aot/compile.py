"""Compile a generated kernel to machine code for a GPU that need not be there.

Triton's compiler runs on any machine; it needs the types of the arguments, which the kernel lists.
Nothing is launched and no bundle is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexdsl.aot.specs import Job, Shape, job_of
from flexdsl.aot.targets import Target, parse_target
from flexdsl.codegen import FACTOR_TENSORS, Argument, Kernel, Language, Role, parse_phase
from flexdsl.errors import BackendError, TargetError
from flexdsl.ir import Kind, rename_apart
from flexdsl.mod import as_mod
from flexdsl.runtime.cache import load
from flexdsl.runtime.tuning import ITEMSIZE, Config


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
        threads: of a program, those of all its partitions.
        scratch_bytes: memory that the launcher would have to bring for each program.
        tensor_maps: of each descriptor in order, what the copy engine needs: `swizzle`, `elem_size`
            and `block_size`; none where the target has no copy engine.
    """

    kernel: Kernel
    target: Target
    config: Config
    stages: Mapping[str, str | bytes]
    shared_bytes: int
    threads: int
    scratch_bytes: int
    tensor_maps: tuple[Mapping[str, Any], ...]

    @property
    def machine_code(self) -> bytes:
        """The cubin or hsaco file."""
        code = self.stages["cubin" if self.target.backend == "cuda" else "hsaco"]
        assert isinstance(code, bytes)
        return code

    @property
    def assembly(self) -> str:
        """The PTX or AMD assembly, which says how the parameters lie."""
        text = self.stages["ptx" if self.target.backend == "cuda" else "amdgcn"]
        assert isinstance(text, str)
        return text


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
    """Compile a kernel of a mask and a score modification, as `attention` runs it.

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
    shape = Shape(parse_target(target), dtype, head_dim, value_dim or head_dim)
    of_mask = None if mask is None else as_mod(mask, Kind.MASK).program
    of_score = None if score is None else as_mod(score, Kind.SCORE).program
    if of_mask is not None and of_score is not None:
        of_score = rename_apart(of_score, of_mask.values)
    products = dtype != "fp32"
    mods = of_mask, of_score
    return compile_job(job_of(parse_phase(phase), *mods, shape, products=products, tables=True))


def compile_job(job: Job) -> Compiled:
    """The first candidate of a job that fits the shared memory of its target, in machine code.

    Raises:
        TargetError: none fits.
        BackendError: Triton's interpreter stands in the place of its compiler.
    """
    for kernel, config in job.candidates:
        compiled = _compile(job, kernel, config)
        if compiled.shared_bytes <= _SHARED_LIMIT[job.target.name]:
            return compiled
    raise TargetError(
        f"no tile size of kernel {job.phase.value} fits the shared memory of {job.target.name}",
        fix="a smaller head dimension, or a 16-bit dtype",
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


# Pointers to tensors that the runtime allocates or aligns itself: they are multiples of 16 bytes.
_OWN = (
    *(Role.TENSOR, Role.ROWS, Role.PARTS, Role.SUMS, Role.GRADIENT),
    *(Role.FACTORS, Role.DIFFERENCES, Role.MASK_BITS),
)


def _compile(job: Job, kernel: Kernel, config: Config) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    if triton.knobs.runtime.interpret:
        raise BackendError(
            "TRITON_INTERPRET=1 is set, and Triton's interpreter makes no machine code",
            fix="unset TRITON_INTERPRET before the process starts",
        )
    signature = {a.name: _signature(a, job, config) for a in kernel.arguments}
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
    target = job.target
    gpu = GPUTarget(target.backend, target.arch, target.warp_size)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    compiled = triton.compile(source, target=gpu, options=options)
    about = compiled.metadata
    scratch = getattr(about, "global_scratch_size", 0) + getattr(about, "profile_scratch_size", 0)
    return Compiled(
        kernel,
        target,
        config,
        dict(compiled.asm),
        about.shared,
        about.num_warps * target.warp_size,
        scratch,
        tuple(getattr(about, "tensordesc_meta", None) or ()),
    )


def _signature(argument: Argument, job: Job, config: Config) -> str:
    """Triton's type of an argument."""
    match argument.role:
        case Role.DESCRIPTOR:
            dtype = "bf16" if argument.of in FACTOR_TENSORS else job.dtype
            block = f"{dtype}[1, 1, {config.rows(argument)}, {argument.index}]"
            if config.language is Language.TRITON:
                return f"tensordesc<{block}>"
            from flexdsl.runtime.descriptors import layout_of_blocks

            rows, itemsize = config.rows(argument), ITEMSIZE[job.dtype]
            return f"tensordesc<{block},{layout_of_blocks(rows, argument.index, itemsize)!r}>"
        case Role.ROWS_DESCRIPTOR:
            from flexdsl.runtime.descriptors import layout_of_rows

            count = config.rows(argument)
            return f"tensordesc<fp32[{count}],{layout_of_rows(count)!r}>"
    return job.type_of(argument)
