"""A launch that is done again by the driver alone: only addresses of tensors are new.

To work out the type of every argument, and to encode every descriptor, takes longer than a short
kernel runs. A `Replay` has the parameters of one launch as the machine gets them, and puts in the
addresses of the tensors of another call of the same kind. Which calls are of one kind is for
`remembered.py` to say, and which tensor has which address for `passes.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from flexdsl.bundle.cuda import aligned_space
from flexdsl.bundle.manifest import Parameter
from flexdsl.bundle.words import MAP_BYTES, Layout, Word, words_of_blocks
from flexdsl.codegen import Role
from flexdsl.runtime import machine
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.call import Slot, grid_of

# Arguments whose addresses change from call to call, and the field of a call that has them.
GROUPS = {
    Role.DESCRIPTOR: "tensors",
    Role.FACTORS: "tensors",
    Role.ROWS: "rows",
    Role.ROWS_DESCRIPTOR: "rows",
    Role.SUMS: "sums",
    Role.COUNTER: "sums",
    Role.GRADIENT: "gradients",
    Role.DIFFERENCES: "tables",
}
_MOST_MAPS = 256  # of one tensor of a launch: each layer of a model has addresses of its own
_put_address = Struct("<Q").pack_into


@dataclass(frozen=True, eq=False)
class Function:
    """A kernel in machine code, on a GPU.

    Attributes:
        handle: the driver's.
        threads: of a program.
        shared_bytes: dynamic shared memory of a program.
        device: index of the GPU.
        parameters: what it takes.
        layout: where they lie, with null pointers after them.
    """

    handle: int
    threads: int
    shared_bytes: int
    device: int
    parameters: tuple[Parameter, ...]
    layout: Layout


class _Maps(dict[int, bytes]):
    """Tensor maps of one parameter by the address of the tensor, made as they are asked for.

    Args:
        encode: makes the map of an address.
    """

    def __init__(self, encode: Callable[[int], bytes]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, address: int) -> bytes:
        if len(self) >= _MOST_MAPS:
            self.clear()
        found = self[address] = self._encode(address)
        return found


@dataclass(frozen=True, eq=False, slots=True)
class Replay:
    """One launch, to be done again.

    Attributes:
        start: starts the kernel on a stream.
        device: index of the GPU.
        view: the bytes of the parameters.
        pointers: parameters that are addresses: their first byte, and the index of the address.
        maps: those that are tensor maps: their bytes, the index of the address, and the maps.
        counts: do its programs share a counter, which is to be 0 before they run?
        kept: what must not be freed.
    """

    start: Callable[[int], None]
    device: int
    view: memoryview
    pointers: tuple[tuple[int, int], ...]
    maps: tuple[tuple[slice, int, _Maps], ...]
    counts: bool
    kept: tuple[Any, ...]
    lock: Lock = field(default_factory=Lock)

    def run(self, addresses: Sequence[int]) -> None:
        """Launch the kernel on torch's current stream.

        Args:
            addresses: of the tensors of the call, in the order that `replay_of` was given. Each is
                a multiple of 16 bytes.
        """
        view = self.view
        with self.lock:
            for offset, index in self.pointers:
                _put_address(view, offset, addresses[index])
            for part, index, maps in self.maps:
                view[part] = maps[addresses[index]]
            self.start(machine.MACHINE.stream(self.device))


def replay_of(
    function: Function, programs: int, values: Sequence[Any], order: Sequence[Slot], *kept: Any
) -> Replay:
    """The launch of a kernel.

    Args:
        programs: how many there are; those that stay for more are fewer.
        values: of its parameters, as `value_of` gives them.
        order: of the tensors whose addresses a run is given.
        kept: what must not be freed, beside tensors that every run reads.
    """
    words: list[Word] = []
    pointers: list[tuple[int, int]] = []
    maps: list[tuple[slice, int, _Maps]] = []
    offsets, driver = function.layout.offsets, machine.MACHINE.driver
    for parameter, value in zip(function.parameters, values, strict=True):
        offset, argument = offsets[len(words)], parameter.argument
        # What is loaded as a captured tensor may be a table of the call's own.
        group = "tables" if argument.role is Role.CAPTURE else GROUPS.get(argument.role)
        slot = group, argument.of
        words += _words(parameter, value, slot in order)
        if slot not in order:
            kept = (*kept, value)
            continue
        index = order.index(slot)
        if parameter.tensor_map is None:
            pointers.append((offset, index))
            continue
        encode = driver.encoder(parameter.tensor_map, value.shape, value.strides)
        maps.append((slice(offset, offset + MAP_BYTES), index, _Maps(encode)))
    packed = function.layout.pack([*words, *[0] * (len(offsets) - len(words))])
    space, base = aligned_space(len(packed))
    first = base - ctypes.addressof(space)
    view = memoryview(space).cast("B")[first : first + len(packed)]
    view[:] = packed
    addresses = (ctypes.c_void_p * len(offsets))(*[base + o for o in offsets])
    device = torch.device("cuda", function.device)
    grid = grid_of(programs, (p.argument for p in function.parameters), device)
    shape = grid, function.threads, function.shared_bytes
    start = driver.prepare(function.handle, *shape, function.device, addresses)
    launch = start, function.device, view, tuple(pointers), tuple(maps)
    return Replay(*launch, counts=grid < programs, kept=(space, *kept))


def _words(parameter: Parameter, value: Any, given: bool) -> list[Word]:
    """What the machine gets for the value of an argument; no address that a run will give.

    Args:
        given: will a run give it?
    """
    if isinstance(value, Blocks):
        base = 0 if parameter.tensor_map is None else bytes(MAP_BYTES)
        return words_of_blocks(parameter, base, value.shape, value.strides)
    if not isinstance(value, Tensor):
        return [value]
    return [0 if given else value.data_ptr()]
