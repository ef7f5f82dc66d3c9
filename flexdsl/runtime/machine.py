"""The GPUs of this process as bundles see them: targets, streams, and their driver."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from flexdsl.bundle.cuda import cuda
from flexdsl.bundle.driver import Driver
from flexdsl.errors import BackendError


class Machine:
    """The GPUs of this process, as torch knows them, and their driver."""

    @property
    def driver(self) -> Driver:
        """What loads and runs machine code."""
        return cuda()

    def target(self, device: torch.device) -> str:
        """The name of the target that runs on `device`.

        Raises:
            BackendError: bundles cannot run there.
        """
        if torch.version.hip is not None:
            raise BackendError(
                "bundles cannot be loaded on AMD GPUs",
                why="their machine code is built, and its launch by the HIP driver is not",
                fix="backend='triton'; or your own launcher, by what manifest.json says",
            )
        if device.type != "cuda":
            raise BackendError(
                f"a bundle cannot run on tensors on {device}",
                why="it holds machine code for a GPU",
                fix="tensors on that GPU; or fx.attention without a bundle, which runs here",
            )
        return _target(device)

    def multiprocessors(self, device: torch.device) -> int:
        """How many multiprocessors the GPU has."""
        return torch.cuda.get_device_properties(device).multi_processor_count

    @property
    def stream(self) -> Callable[[int], int]:
        """What gives the handle of torch's current stream on the GPU of an index."""
        return torch._C._cuda_getCurrentRawStream


MACHINE = Machine()


@cache
def _target(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda:{10 * major + minor}"
