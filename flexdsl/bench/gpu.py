"""How a GPU is measured: time by its events, compilers' caches empty.

A time is what triton's `do_bench` calls the median: the L2 cache is cleared before each call.
Memory is measured in `memory.py`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

# Folders in which compiled kernels outlive a process.
CACHES = ("FLEXDSL_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


def forget_compiled() -> None:
    """What torch's compiler made in this process, if it was used at all, is not found again."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@dataclass(frozen=True)
class Gpu:
    """The GPU of this index, through torch.cuda (NVIDIA's or AMD's)."""

    device: torch.device
    dtype: torch.dtype = torch.bfloat16

    def rounds(self, quick: bool) -> int:
        """Turns that each peer gets."""
        return 3 if quick else 5

    def milliseconds(self, call: Callable[[], Any], quick: bool) -> float:
        """The median time of a call, over as many as take 30 ms (quick) or 100 ms."""
        from triton.testing import do_bench

        warmup, rep = (10, 30) if quick else (25, 100)
        return float(do_bench(call, warmup=warmup, rep=rep, return_mode="median"))

    def synchronize(self) -> None:
        """Wait for the GPU."""
        torch.cuda.synchronize(self.device)

    @contextmanager
    def fresh_caches(self) -> Iterator[None]:
        """Nothing that was compiled before, in this process or another, is found inside."""
        forget_compiled()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            folders = {name: os.path.join(folder, name.lower()) for name in CACHES}  # noqa: PTH118
            with patch.dict(os.environ, folders):
                yield
        forget_compiled()

    def free(self) -> None:
        """Give memory that nothing uses back to the GPU."""
        torch.cuda.empty_cache()

    def load_compiler(self, peers: Sequence[str]) -> None:
        """Import torch's compiler, so that no workload's cold start has that in it."""
        if "flex" in peers:
            torch.compile(lambda x: x + 1)(torch.zeros(16, device=self.device))

    def describe(self) -> dict[str, Any]:
        """What a reader must know of the GPU."""
        properties = torch.cuda.get_device_properties(self.device)
        return {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda or torch.version.hip,
        }
