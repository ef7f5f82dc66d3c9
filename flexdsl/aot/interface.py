"""The parameters of a compiled kernel as its machine code has them, for the manifest.

They are worked out from the kernel's own arguments, and then held against the assembly, which lists
every parameter with its size: a compiler that passes them otherwise is noticed here, not by a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flexdsl.aot.compile import Compiled
from flexdsl.aot.specs import OF_BITS, Job, plan_kind
from flexdsl.bundle.assembly import sizes_in_amdgcn, sizes_in_ptx
from flexdsl.bundle.manifest import Code, Parameter, TensorMap
from flexdsl.bundle.words import MAP_ELEMENTS, SIZES, machine_types
from flexdsl.codegen import FACTOR_TENSORS, OF_KEYS, Argument, Phase, Role
from flexdsl.errors import InternalError
from flexdsl.runtime.tuning import ITEMSIZE, Config

_DESCRIPTORS = (Role.DESCRIPTOR, Role.ROWS_DESCRIPTOR)


def code_of(job: Job, compiled: Compiled, code: str, source: str, made_of: str) -> Code:
    """What the manifest says of a kernel.

    Args:
        code, source: paths of its files.
        made_of: digest of its inputs.
    """
    parameters, null_pointers = _parameters(job, compiled)
    config = compiled.config
    return Code(
        phase=job.phase.value,
        entry=compiled.kernel.entry,
        code=code,
        source=source,
        tile=config.tile,
        stages=config.num_stages,
        language=config.language.value,
        threads=compiled.threads,
        shared_bytes=compiled.shared_bytes,
        plan=plan_kind(compiled.kernel),
        grid=_grid(job, compiled),
        parameters=parameters,
        null_pointers=null_pointers,
        made_of=made_of,
        before=tuple(phase.value for phase in job.before),
    )


def _grid(job: Job, compiled: Compiled) -> str:
    if job.phase.value.startswith("plan"):
        return "as flexdsl/runtime/device_plan.py"
    if job.phase in OF_BITS:
        return "as flexdsl/runtime/mask_bits.py"
    if job.phase in (Phase.FACTORS, Phase.DIFFERENCES, Phase.FORWARD_SPLIT, Phase.FORWARD_MERGE):
        return "as flexdsl/runtime/call.py"
    if any(a.of == "diagonals" for a in compiled.kernel.arguments):
        return "diagonals * batch * heads"
    programs = "q_tiles * batch * heads"
    if job.phase in OF_KEYS:
        heads = "heads" if job.phase.value == "backward" else "kv_heads"
        programs = f"kv_tiles * batch * {heads}"
    stay = any(a.role is Role.COUNTER for a in compiled.kernel.arguments)
    return f"min({programs}, multiprocessors)" if stay else programs


def _parameters(job: Job, compiled: Compiled) -> tuple[tuple[Parameter, ...], int]:
    """The parameters, and the number of pointers after them that are 0."""
    if compiled.scratch_bytes:
        raise InternalError(f"kernel {compiled.kernel.entry} needs scratch memory of its launcher")
    maps = list(compiled.tensor_maps)
    parameters = [_parameter(a, job, compiled.config, maps) for a in compiled.kernel.arguments]
    sizes = _sizes_in_assembly(compiled)
    plain = sum(p.type == "descriptor" and p.tensor_map is None for p in parameters)
    if plain:
        flags, rest = divmod(sizes.count(1), plain)
        if rest:
            raise _unlike(compiled, sizes, [])
        parameters = [replace(p, flags=flags) if p.type == "descriptor" else p for p in parameters]
    expected = [SIZES[t] for p in parameters for t in machine_types(p)]
    nulls = len(sizes) - len(expected)
    if nulls < 0 or sizes != [*expected, *[8] * nulls]:
        raise _unlike(compiled, sizes, expected)
    return tuple(parameters), nulls


def _unlike(compiled: Compiled, sizes: list[int], expected: list[int]) -> InternalError:
    return InternalError(
        f"the parameters of {compiled.kernel.entry} have sizes {sizes} in the assembly, and"
        f" {expected} were expected"
    )


def _parameter(
    argument: Argument, job: Job, config: Config, maps: list[Mapping[str, Any]]
) -> Parameter:
    """One parameter; it takes its tensor map from the front of `maps`."""
    if argument.role not in _DESCRIPTORS:
        name = job.type_of(argument)
        if name.startswith("*"):
            return Parameter(argument, "pointer", name[1:])
        return Parameter(argument, name)
    rows = config.rows(argument)
    argument = replace(argument, rows=rows)
    dtype = "bf16" if argument.of in FACTOR_TENSORS else job.dtype
    block: tuple[int, ...] = (1, 1, rows, argument.index)
    if argument.role is Role.ROWS_DESCRIPTOR:
        dtype, block = "fp32", (rows,)
    box = None
    if maps:
        about = maps.pop(0)
        lengths = tuple(about["block_size"])
        box = TensorMap(MAP_ELEMENTS[dtype], ITEMSIZE[dtype], about["swizzle"], lengths)
    return Parameter(argument, "descriptor", "", box, len(block), block)


def _sizes_in_assembly(compiled: Compiled) -> list[int]:
    """Bytes of each parameter of the entry."""
    if compiled.target.backend == "hip":
        return sizes_in_amdgcn(compiled.assembly)
    return sizes_in_ptx(compiled.assembly, compiled.kernel.entry)
