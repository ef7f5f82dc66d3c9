"""Which backends `verify` can ask on this machine, and which drawn cases each of them takes.

It runs nothing: that is `execution.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from flexdsl.errors import ArgumentError, BackendError
from flexdsl.testing.case import Case

NAMES = ("cpu", "triton", "hopper", "reference")
_HOPPER = (9, 0)  # its compute capability
# Lengths that are drawn: on a GPU more than one tile of its kernels.
_LONGEST, _GPU_LONGEST = 48, 144


@dataclass(frozen=True)
class Backend:
    """One of `attention`'s backends, and what it is asked.

    Attributes:
        name: as `attention` knows it.
        device: of its tensors.
        dtypes: names of element types that it takes.
        dims: head dimensions to draw.
        longest: rows and keys to draw at most.
        equal_dims: does it take only values as wide as queries?
    """

    name: str
    device: torch.device
    dtypes: tuple[str, ...]
    dims: tuple[int, ...]
    longest: int = _LONGEST
    equal_dims: bool = False

    def takes(self, case: Case) -> bool:
        """Can it run this case?"""
        if self.equal_dims:
            dims = case.dim == case.v_dim and case.dim in self.dims
            return dims and case.dtype in self.dtypes
        return case.dtype in self.dtypes


def find_backends(name: str) -> tuple[Backend, ...]:
    """The backend of that name; for "auto" every one that this machine has, GPU first.

    Raises:
        ArgumentError: there is no such one.
        BackendError: it cannot run here.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return (_backend("cpu"),)
        own = ("hopper",) if _is_hopper() else ()
        return tuple(_backend(n) for n in ("triton", *own, "cpu"))
    if name not in NAMES:
        raise ArgumentError(
            f"backend is {name!r}: there is no such one",
            fix=", ".join(f'"{b}"' for b in ("auto", *NAMES)),
        )
    if name == "triton" and not (torch.cuda.is_available() or _interprets()):
        raise BackendError(
            "backend 'triton' cannot run on a machine without a GPU",
            fix="backend='cpu', or set TRITON_INTERPRET=1 before Python starts",
        )
    if name == "hopper" and not _is_hopper():
        raise BackendError(
            "backend 'hopper' cannot run on a machine without a GPU of compute capability 9.0",
            fix="backend='auto', which is every backend that this machine has",
        )
    return (_backend(name),)


def _backend(name: str) -> Backend:
    halves = ("float16", "bfloat16")
    cuda = torch.device("cuda")
    match name:
        case "hopper":
            return Backend(name, cuda, halves, (64, 96, 128, 256), _GPU_LONGEST, equal_dims=True)
        case "triton" if _interprets():
            # Triton's interpreter computes bfloat16 wrongly.
            host = torch.device("cpu")
            return Backend(name, host, ("float32", "float16"), (16, 32, 64), _GPU_LONGEST)
        case "triton":
            return Backend(name, cuda, ("float32", *halves), (16, 32, 64), _GPU_LONGEST)
    dtypes = ("float32", "float64", *halves)
    return Backend(name, torch.device("cpu"), dtypes, (16, 2, 8, 24, 40))


def _is_hopper() -> bool:
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability() == _HOPPER


def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
