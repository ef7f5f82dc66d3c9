"""What a bundle needs of a GPU's driver, and no more. Devices are numbers, functions handles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import Array, c_void_p
from typing import Protocol

from flexdsl.bundle.manifest import TensorMap


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

    def prepare(
        self,
        function: int,
        programs: int,
        threads: int,
        shared_bytes: int,
        device: int,
        parameters: Array[c_void_p],
    ) -> Callable[[int], None]:
        """What starts `programs` programs of `threads` threads each, on the stream it is given.

        Args:
            parameters: the address of each parameter, as `words.py` lays them out. They are read
                at each start.

        One thread at a time may start it. A start raises `BackendError` where the driver refuses.
        """
