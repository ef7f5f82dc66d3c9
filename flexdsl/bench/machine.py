"""What runs the benchmark: the GPU if there is one, else the CPU; and what describes it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import flexdsl as fx
from flexdsl.bench.cpu import Cpu
from flexdsl.bench.gpu import Gpu
from flexdsl.errors import ArgumentError

Machine = Gpu | Cpu


def find_machine(kind: str | None = None) -> Machine:
    """The machine of a kind, "cuda" or "cpu"; None for the GPU if there is one.

    Raises:
        ArgumentError: no GPU is here.
    """
    here = torch.cuda.is_available()
    if kind == "cuda" and not here:
        raise ArgumentError("torch finds no GPU on this machine", fix="--device cpu")
    if kind == "cpu" or not here:
        return Cpu(torch.device("cpu"))
    return Gpu(torch.device("cuda", torch.cuda.current_device()))


def describe(machine: Machine) -> dict[str, Any]:
    """What a reader of figures must know: the device, the versions, and the time."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": machine.device.type,
        "dtype": str(machine.dtype).removeprefix("torch."),
        **machine.describe(),
        "flexdsl": fx.__version__,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
