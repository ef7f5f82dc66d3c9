"""What triton compiled, as the driver alone can launch it. Data only; triton is not imported.

GPUs without NVIDIA's copy engine, and what needs scratch memory or more than a grid of programs,
are left to triton.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flexdsl.bundle.assembly import sizes_in_ptx
from flexdsl.bundle.manifest import Parameter, TensorMap
from flexdsl.bundle.words import MAP_ELEMENTS, SIZES, Layout, machine_types
from flexdsl.codegen import Kernel
from flexdsl.runtime.blocks import ALIGNMENT
from flexdsl.runtime.call import DTYPES, Place, Slot
from flexdsl.runtime.replay import GROUPS, Function, Launch, launch_of


def launch_of_compiled(
    compiled: Any,
    kernel: Kernel,
    values: Sequence[Any],
    programs: int,
    device: int,
    places: Mapping[Slot, Place],
) -> Launch | None:
    """What launches `kernel` again, or None where only triton can.

    Args:
        compiled: triton's `CompiledKernel`, which has just been launched.
        values: of the kernel's arguments, as `value_of` gives them.
        programs: how many there are; those that stay for more are fewer.
        device: index of the GPU.
        places: of the tensors whose addresses a run is given.
    """
    found = _parameters(compiled, kernel, values)
    if found is None:
        return None
    parameters, given = found
    about = compiled.metadata
    types = [t for p in parameters for t in machine_types(p)]
    sizes, expected = sizes_in_ptx(compiled.asm["ptx"], compiled.name), [SIZES[t] for t in types]
    nulls = len(sizes) - len(types)
    if nulls < 0 or sizes != [*expected, *[8] * nulls]:
        return None
    function = Function(
        compiled.function,
        about.num_warps * 32,
        about.shared,
        device,
        tuple(parameters),
        Layout((*types, *["pointer"] * nulls)),
    )
    return launch_of(function, programs, given, places, compiled)


def _parameters(
    compiled: Any, kernel: Kernel, values: Sequence[Any]
) -> tuple[list[Parameter], list[Any]] | None:
    """What the machine gets, without what the compiler made constants; None if it is not known."""
    about = compiled.metadata
    if "ptx" not in compiled.asm or about.num_ctas != 1 or _scratch(about):
        return None
    maps = list(getattr(about, "tensordesc_meta", None) or ())
    parameters: list[Parameter] = []
    given: list[Any] = []
    for argument, value in zip(kernel.arguments, values, strict=True):
        name = compiled.src.signature[argument.name]
        if name == "constexpr":
            continue
        if name.startswith("tensordesc"):
            if not maps:
                return None
            meta, dtype = maps.pop(0), value.tensor.dtype
            element, lengths = MAP_ELEMENTS[DTYPES[dtype]], tuple(meta["block_size"])
            box = TensorMap(element, dtype.itemsize, meta["swizzle"], lengths)
            block = tuple(value.block)
            parameters.append(Parameter(argument, "descriptor", "", box, len(block), block))
        elif name.startswith("*"):
            if value.data_ptr() % ALIGNMENT and argument.role in GROUPS:
                return None
            parameters.append(Parameter(argument, "pointer", name[1:]))
        elif name in ("i32", "i64", "fp32"):
            parameters.append(Parameter(argument, name))
        else:
            return None
        given.append(value)
    return parameters, given


def _scratch(about: Any) -> bool:
    names = ("global_scratch_size", "profile_scratch_size", "launch_pdl", "launch_cooperative_grid")
    return any(getattr(about, name, 0) for name in names)
