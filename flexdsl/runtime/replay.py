"""A kernel that ran before, launched again by the driver alone: only addresses are new.

Triton's launch works out the type of every argument, and encodes every descriptor, each time; that
takes longer than a short kernel runs. A `Replay` has the parameters of one launch as the machine
gets them, and puts in the addresses of the tensors of another call of the same kind. Which calls
are of one kind is for `launch.py` to say. GPUs without NVIDIA's copy engine are left to triton.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from flexdsl.bundle.assembly import sizes_in_ptx
from flexdsl.bundle.cuda import Cuda, aligned_space, cuda
from flexdsl.bundle.manifest import Parameter, TensorMap
from flexdsl.bundle.words import (
    MAP_BYTES,
    MAP_ELEMENTS,
    SIZES,
    Layout,
    Word,
    machine_types,
    words_of_blocks,
)
from flexdsl.codegen import Kernel, Role
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.call import DTYPES, Call

# Arguments whose addresses change from call to call, and what of a call has them, by name.
_GROUPS = {
    Role.DESCRIPTOR: "tensors",
    Role.ROWS: "rows",
    Role.ROWS_DESCRIPTOR: "rows",
    Role.SUMS: "sums",
    Role.GRADIENT: "gradients",
}
_ALIGNMENT = 16  # bytes: what a kernel was compiled for, where the address is such a multiple
_MOST_MAPS = 64


@dataclass(frozen=True, eq=False, slots=True)
class _Place:
    """A parameter that is the address of a tensor of the call.

    Attributes:
        offset: its first byte.
        group, name: `getattr(call, group)[name]` is the tensor.
        box, blocks: of a tensor map, and lengths and strides of its tensor.
        maps: those encoded before, by address.
    """

    offset: int
    group: str
    name: str
    box: TensorMap | None = None
    blocks: Blocks | None = None
    maps: dict[int, bytes] = field(default_factory=dict[int, bytes])


@dataclass(frozen=True, eq=False)
class Replay:
    """One launch, to be done again.

    Attributes:
        driver: what launches.
        function: the driver's handle.
        shape: programs, threads of each, and bytes of shared memory.
        device: index of the GPU.
        space: where the parameters lie; `view` is the same in bytes.
        pointers: addresses of the parameters in `space`.
        places: the parameters to be filled in.
        kept: what must not be freed.
    """

    driver: Cuda
    function: int
    shape: tuple[int, int, int]
    device: int
    space: Any
    view: memoryview
    pointers: Any
    places: tuple[_Place, ...]
    kept: tuple[Any, ...]
    lock: Lock = field(default_factory=Lock)

    def run(self, call: Call) -> bool:
        """Launch the kernel for `call`; False where an address is not one that it was made for."""
        with self.lock:
            for place in self.places:
                address = getattr(call, place.group)[place.name].data_ptr()
                if address % _ALIGNMENT:
                    return False
                if place.blocks is None:
                    struct.pack_into("<Q", self.view, place.offset, address)
                else:
                    end = place.offset + MAP_BYTES
                    self.view[place.offset : end] = self._map(place, address)
            stream = torch._C._cuda_getCurrentRawStream(self.device)
            self.driver.start(self.function, *self.shape, stream, self.device, self.pointers)
        return True

    def _map(self, place: _Place, address: int) -> bytes:
        found = place.maps.get(address)
        if found is None:
            box, blocks = place.box, place.blocks
            assert box is not None and blocks is not None
            if len(place.maps) >= _MOST_MAPS:
                place.maps.clear()
            found = self.driver.encode(box, address, blocks.shape, blocks.strides)
            place.maps[address] = found
        return found


def replay_of(
    compiled: Any, kernel: Kernel, values: Sequence[Any], programs: int, device: torch.device
) -> Replay | None:
    """What launches `kernel` again, or None where only triton can.

    Args:
        compiled: triton's `CompiledKernel`, which has just been launched.
        values: of the kernel's arguments, as `value_of` gives them.
        programs: how many ran.
    """
    found = _parameters(compiled, kernel, values)
    if found is None:
        return None
    parameters, given = found
    types = [t for p in parameters for t in machine_types(p)]
    sizes, expected = sizes_in_ptx(compiled.asm["ptx"], compiled.name), [SIZES[t] for t in types]
    nulls = len(sizes) - len(types)
    if nulls < 0 or sizes != [*expected, *[8] * nulls]:
        return None
    layout = Layout((*types, *["pointer"] * nulls))
    words: list[Word] = [0] * len(layout.types)
    places: list[_Place] = []
    at = 0
    for parameter, value in zip(parameters, given, strict=True):
        offset = layout.offsets[at]
        mine = _words(parameter, value)
        words[at : at + len(mine)] = mine
        at += len(mine)
        place = _place(offset, parameter, value)
        if place is not None:
            places.append(place)
    packed = layout.pack(words)
    space, base = aligned_space(len(packed))
    start = base - ctypes.addressof(space)
    view = memoryview(space).cast("B")[start : start + len(packed)]
    view[:] = packed
    pointers = (ctypes.c_void_p * len(layout.offsets))(*[base + o for o in layout.offsets])
    about = compiled.metadata
    return Replay(
        cuda(),
        compiled.function,
        (programs, about.num_warps * 32, about.shared),
        device.index,
        space,
        view,
        pointers,
        tuple(places),
        (compiled, *(v for v, p in zip(given, parameters, strict=True) if _is_kept(p, v))),
    )


def _is_kept(parameter: Parameter, value: Any) -> bool:
    return isinstance(value, Tensor) and parameter.argument.role not in _GROUPS


def _place(offset: int, parameter: Parameter, value: Any) -> _Place | None:
    argument = parameter.argument
    group = _GROUPS.get(argument.role)
    if group is None:
        return None
    if not isinstance(value, Blocks):
        return _Place(offset, group, argument.of)
    # Lengths and strides alone: the tensor is not to be kept.
    plain = Blocks(value.tensor.new_empty(0), value.shape, value.strides, value.block)
    return _Place(offset, group, argument.of, parameter.tensor_map, plain)


def _words(parameter: Parameter, value: Any) -> list[Word]:
    if isinstance(value, Blocks):
        return words_of_blocks(parameter, bytes(MAP_BYTES), value.shape, value.strides)
    return [value.data_ptr() if isinstance(value, Tensor) else value]


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
            if value.data_ptr() % _ALIGNMENT and argument.role in _GROUPS:
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
