"""How the CPU keeps time, and what it is. Memory is measured in `memory.py`."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexdsl.bench.gpu import forget_compiled


@dataclass(frozen=True)
class Cpu:
    """This machine's processor, with as many threads as torch uses."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    def rounds(self, quick: bool) -> int:
        """Turns that each peer gets."""
        return 3 if quick else 7

    def milliseconds(self, call: Callable[[], Any], quick: bool) -> float:
        """The time of one call."""
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e3

    def synchronize(self) -> None:
        """Nothing to wait for."""

    @contextmanager
    def fresh_caches(self) -> Iterator[None]:
        """The CPU executor compiles nothing; torch's compiler, if a peer uses it, starts anew."""
        forget_compiled()
        yield

    def free(self) -> None:
        """Freed memory is the system's already."""

    def load_compiler(self, peers: Sequence[str]) -> None:
        """Import torch's compiler, so that no workload's cold start has that in it."""
        if "flex" in peers:
            torch.compile(lambda x: x + 1)(torch.zeros(16))

    def describe(self) -> dict[str, Any]:
        """What a reader must know of the processor."""
        return {"name": _model(), "threads": torch.get_num_threads()}


def _model() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.processor() or platform.machine()
