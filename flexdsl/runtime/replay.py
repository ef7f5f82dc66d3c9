"""Launches that are done again by the driver alone: only addresses of tensors are new.

To work out the type of every argument, and to encode every descriptor, takes longer than a short
kernel runs. A `Launch` has the parameters of one kernel as the machine gets them; a `Replay` does
several in a row, and puts in the addresses of the tensors of another call of the same kind. Which
calls are of one kind is for `remembered.py` to say, and which tensor has which address for
`passes.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from struct import Struct
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from flexdsl.bundle.cuda import aligned_space
from flexdsl.bundle.driver import Clear, Start
from flexdsl.bundle.manifest import Parameter
from flexdsl.bundle.words import MAP_BYTES, Layout, Word, words_of_blocks
from flexdsl.codegen import Role
from flexdsl.runtime import machine
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.call import Place, Slot, grid_of

# Arguments whose addresses change from call to call, and the field of a call that has them.
GROUPS = {
    Role.DESCRIPTOR: "tensors",
    Role.FACTORS: "tensors",
    Role.TENSOR: "tensors",
    Role.ROWS: "rows",
    Role.ROWS_DESCRIPTOR: "rows",
    Role.SUMS: "sums",
    Role.PARTS: "sums",
    Role.COUNTER: "sums",
    Role.GRADIENT: "gradients",
    Role.DIFFERENCES: "tables",
}
_MOST_MAPS = 256  # of one tensor of a launch: each layer of a model has addresses of its own


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


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch, to be done again.

    Attributes:
        function: the kernel.
        programs: how many there are at a time.
        parameters: of each, where it lies; or the place of the address that it is.
        maps: those that are tensor maps: their numbers, the place of the tensor, and its maps.
        counts: do its programs share a counter, which is to be 0 before they run?
        kept: what must not be freed.
    """

    function: Function
    programs: int
    parameters: tuple[int | Place, ...]
    maps: tuple[tuple[int, Place, _Maps], ...]
    counts: bool
    kept: tuple[Any, ...]


@dataclass(frozen=True)
class Cleared:
    """Memory that is filled with zeros.

    Attributes:
        place: where it begins.
        size: in bytes, a multiple of 4.
    """

    place: Place
    size: int


class Replay:
    """Launches in a row, to be done again.

    Args:
        works: the launches, and what is filled with zeros between them.
        addresses: how many a run is given.
    """

    def __init__(self, works: Sequence[Launch | Cleared], addresses: int) -> None:
        places = dict.fromkeys(place for work in works for place in _places_of(work))
        whole = [(i, 0) for i in range(addresses)]
        self._parts = [place for place in places if place[1] > 0]
        self._places = {place: i for i, place in enumerate([*whole, *self._parts])}
        self._launches = [w for w in works if isinstance(w, Launch)]
        self._device, self._lock = self._launches[0].function.device, Lock()
        maps = [m for launch in self._launches for m in launch.maps]
        self._maps = [(self._places[place], found) for _, place, found in maps]
        # Addresses, then maps: what is new in a run lies here, for all launches.
        size = 8 * len(self._places)
        self._first_map = -(-size // 64) * 64
        texts = f"={len(self._places)}Q", f"{self._first_map - size}x", f"{MAP_BYTES}s" * len(maps)
        packed = Struct("".join(texts))
        self._space, self._base = aligned_space(packed.size)
        self._put, self._at = packed.pack_into, self._base - ctypes.addressof(self._space)
        prepared = self._prepared(works)
        self._start = machine.MACHINE.driver.prepare(prepared, self._device)
        self._stream = machine.MACHINE.stream

    def run(self, addresses: list[int]) -> None:
        """Put it all on torch's current stream.

        Args:
            addresses: of the tensors of the call, as places count them; multiples of 16 bytes.
        """
        values = addresses
        if self._parts:
            values = addresses + [addresses[index] + offset for index, offset in self._parts]
        maps = [maps[values[index]] for index, maps in self._maps]
        with self._lock:
            self._put(self._space, self._at, *values, *maps)
            self._start(self._stream(self._device))

    def _prepared(self, works: Sequence[Launch | Cleared]) -> list[Start | Clear]:
        prepared: list[Start | Clear] = []
        maps = count(self._base + self._first_map, MAP_BYTES)
        for work in works:
            if isinstance(work, Cleared):
                at = self._at + 8 * self._places[work.place]
                address = ctypes.c_uint64.from_buffer(self._space, at)
                prepared.append(Clear(address, work.size))
                continue
            lie = [p if isinstance(p, int) else self._address_of(p) for p in work.parameters]
            for number, *_ in work.maps:
                lie[number] = next(maps)
            places, function = (ctypes.c_void_p * len(lie))(*lie), work.function
            shape = work.programs, function.threads, function.shared_bytes
            prepared.append(Start(function.handle, *shape, places))
        return prepared

    def _address_of(self, place: Place) -> int:
        """Where the address of a place lies."""
        return self._base + 8 * self._places[place]


def _places_of(work: Launch | Cleared) -> list[Place]:
    if isinstance(work, Cleared):
        return [work.place]
    pointers = [p for p in work.parameters if not isinstance(p, int)]
    return [*pointers, *(place for *_, place, _ in work.maps)]


def launch_of(
    function: Function,
    programs: int,
    values: Sequence[Any],
    places: Mapping[Slot, Place],
    *kept: Any,
) -> Launch:
    """The launch of a kernel.

    Args:
        programs: how many there are; those that stay for more are fewer.
        values: of its parameters, as `value_of` gives them.
        places: of the tensors whose addresses a run is given.
        kept: what must not be freed, beside tensors that every run reads.
    """
    words: list[Word] = []
    pointers: dict[int, Place] = {}
    maps: list[tuple[int, Place, _Maps]] = []
    offsets, driver = function.layout.offsets, machine.MACHINE.driver
    for parameter, value in zip(function.parameters, values, strict=True):
        number, argument = len(words), parameter.argument
        # What is loaded as a captured tensor may be a table of the call's own.
        group = "tables" if argument.role is Role.CAPTURE else GROUPS.get(argument.role)
        place = None if group is None else places.get((group, argument.of))
        words += _words(parameter, value, place is not None)
        if place is None:
            kept = (*kept, value)
        elif parameter.tensor_map is None:
            pointers[number] = place
        else:
            encode = driver.encoder(parameter.tensor_map, value.shape, value.strides)
            maps.append((number, place, _Maps(encode)))
    packed = function.layout.pack([*words, *[0] * (len(offsets) - len(words))])
    space, base = aligned_space(len(packed))
    ctypes.memmove(base, packed, len(packed))
    lie = tuple(pointers.get(i, base + offset) for i, offset in enumerate(offsets))
    device = torch.device("cuda", function.device)
    grid = grid_of(programs, (p.argument for p in function.parameters), device)
    return Launch(function, grid, lie, tuple(maps), counts=grid < programs, kept=(space, *kept))


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
