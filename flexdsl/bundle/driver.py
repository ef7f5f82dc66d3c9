"""What a bundle needs of a GPU's driver, and no more. Devices are numbers, functions handles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import Array, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Protocol

from flexdsl.bundle.manifest import TensorMap


@dataclass(frozen=True, eq=False)
class Start:
    """A kernel to be started.

    Attributes:
        function: its handle.
        programs, threads: how many programs, and threads of each.
        shared_bytes: dynamic shared memory of a program.
        parameters: the address of each parameter, as `words.py` lays them out. They are read at
            each start.
    """

    function: int
    programs: int
    threads: int
    shared_bytes: int
    parameters: Array[c_void_p]


@dataclass(frozen=True, eq=False)
class Clear:
    """Memory to be filled with zeros.

    Attributes:
        address: where it begins, a multiple of 4. It is read each time.
        size: in bytes, a multiple of 4.
    """

    address: c_uint64
    size: int


class Driver(Protocol):
    """Loads machine code and runs it."""

    def load(self, code: bytes, entry: str, shared_bytes: int, device: int) -> int:
        """A handle of the function `entry`, which may take `shared_bytes` of shared memory.

        Raises:
            BackendError: the driver refuses the machine code.
        """

    def encoder(
        self, box: TensorMap, shape: Sequence[int], strides: Sequence[int]
    ) -> Callable[[int], bytes]:
        """What makes the tensor map of 128 bytes of a tensor at the address that it is given.

        Args:
            shape, strides: of the tensor, in elements, outermost first.

        Making one raises `BackendError` where the driver refuses it.
        """

    def prepare(self, works: Sequence[Start | Clear], device: int) -> Callable[[int], None]:
        """What puts `works`, in their order, on the stream it is given.

        One thread at a time may call it. It raises `BackendError` where the driver refuses one.
        """
