"""What a bundle needs of a GPU's driver, and no more. Devices are numbers, functions handles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flexdsl.bundle.manifest import TensorMap


class Driver(Protocol):
    """Loads machine code and runs it."""

    def load(self, code: bytes, entry: str, shared_bytes: int, device: int) -> int:
        """A handle of the function `entry`, which may take `shared_bytes` of shared memory.

        Raises:
            BackendError: the driver refuses the machine code.
        """

    def encode(
        self, box: TensorMap, address: int, shape: Sequence[int], strides: Sequence[int]
    ) -> bytes:
        """The 128 bytes of a tensor map. `shape` and `strides` are in elements, outermost first.

        Raises:
            BackendError: the driver refuses them.
        """

    def launch(
        self,
        function: int,
        programs: int,
        threads: int,
        shared_bytes: int,
        stream: int,
        device: int,
        buffer: bytes,
        offsets: Sequence[int],
    ) -> None:
        """Start `programs` programs of `threads` threads each on `stream` of `device`.

        Args:
            buffer, offsets: the parameters and where each one begins, as `words.py` lays them out.

        Raises:
            BackendError: the driver refuses the launch.
        """
