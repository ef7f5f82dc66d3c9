"""The CPU executor beside torch's scaled_dot_product_attention (SDPA): time and memory.

    python -m flexdsl.bench.cpu [--tokens 8192] [--repeats 7]

Calls of both alternate in one process, and each figure is a median. Memory is what the peak of
resident memory rises by during one call, in a fresh process. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

import flexdsl as fx

PLANNED_TOKENS = 131072  # the length at which making a plan is timed
SHORT = 128  # tokens of the first call of a variant: what it costs beside the arithmetic


@dataclass(frozen=True)
class Workload:
    """Self-attention [1, heads, tokens, dim] in float32 under one mask.

    Attributes:
        mask: in the text form.
        causal: the peer is SDPA with is_causal=True; else it gets a dense boolean mask.
    """

    name: str
    mask: str
    causal: bool
    tokens: int = 8192
    heads: int = 8
    dim: int = 64

    def tensors(self) -> list[Tensor]:
        """q, k, v of normally distributed numbers."""
        generator = torch.Generator().manual_seed(0)
        shape = 1, self.heads, self.tokens, self.dim
        return [torch.randn(shape, generator=generator) for _ in range(3)]

    @property
    def peer_name(self) -> str:
        """How the peer is called."""
        return "SDPA is_causal" if self.causal else "SDPA, dense mask"

    def peer(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The peer's function of q, k, v; a dense mask is made here, once."""
        if self.causal:
            return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        dense = torch.from_numpy(self.plan(self.tokens).to_dense(tokens=True)[0, 0])
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=dense)

    def ours(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """flexdsl's function of q, k, v."""
        mask = fx.parse(self.mask)
        return lambda q, k, v: fx.attention(q, k, v, mask=mask, backend="cpu")

    def plan(self, tokens: int) -> fx.BlockPlan:
        """The plan of the mask for a square of `tokens`."""
        return fx.plan(self.mask, tokens, tokens)


WORKLOADS = (
    Workload("sliding window 256", "q >= kv and q - kv < 256", causal=False),
    Workload("causal", "q >= kv", causal=True),
)


@dataclass(frozen=True)
class Row:
    """What was measured of a workload; times in seconds, memory in bytes or None where unknown.

    Attributes:
        error: largest difference between ours and the peer's output.
        first_seconds: the first call of the variant in a fresh process, `SHORT` tokens.
        plan_seconds: making the plan for `PLANNED_TOKENS` tokens.
    """

    workload: Workload
    seconds: float
    peer_seconds: float
    error: float
    extra_bytes: int | None
    peer_extra_bytes: int | None
    first_seconds: float
    plan_seconds: float

    @property
    def dense_bytes(self) -> int:
        """Bytes of a float32 matrix of all scores of all heads."""
        return 4 * self.workload.heads * self.workload.tokens**2


def measure(workload: Workload, repeats: int = 7) -> Row:
    """One row, by `repeats` alternating calls and two fresh processes."""
    q, k, v = workload.tensors()
    functions = workload.ours(), workload.peer()
    error = (functions[0](q, k, v) - functions[1](q, k, v)).abs().max().item()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for taken, function in zip(times, functions, strict=True):
            taken.append(_seconds(partial(function, q, k, v)))
    plans = [_seconds(lambda: workload.plan(PLANNED_TOKENS)) for _ in range(repeats)]
    ours, first = _in_fresh_process(_measure_fresh, workload, False)
    peer, _ = _in_fresh_process(_measure_fresh, workload, True)
    seconds, peer_seconds, plan_seconds = (statistics.median(x) for x in (*times, plans))
    return Row(workload, seconds, peer_seconds, error, ours, peer, first, plan_seconds)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def _measure_fresh(workload: Workload, peer: bool) -> tuple[int | None, float]:
    """Peak extra memory of one call, and the seconds of the first, short one before it."""
    tensors = workload.tensors()
    short = [x[:, :, :SHORT] for x in tensors]
    if peer:
        function = workload.peer()
        first = 0.0
    else:
        function = workload.ours()
        first = _seconds(lambda: function(*short))
    before = _resident("VmRSS")
    function(*tensors)
    peak = _resident("VmHWM")
    return None if before is None or peak is None else peak - before, first


def _resident(field: str) -> int | None:
    """Resident memory now (VmRSS) or at its highest (VmHWM); None where the system hides it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(rf"{field}:\s*(\d+) kB", status.read_text())
    return int(found[1]) * 1024 if found else None


def table(rows: Sequence[Row]) -> Table:
    """The rows as a table for the terminal."""
    shown = Table(title=f"CPU forward, float32, {torch.get_num_threads()} threads")
    names = ("workload", "flexdsl", "peer", "peer time", "peer / flexdsl", "extra memory")
    for name in (*names, "peer's", "dense scores", "first call", "plan 131072", "difference"):
        shown.add_column(name, justify="left" if name in ("workload", "peer") else "right")
    for row in rows:
        shape = f"{row.workload.tokens} H{row.workload.heads} D{row.workload.dim}"
        shown.add_row(
            f"{row.workload.name}, {shape}",
            _milliseconds(row.seconds),
            row.workload.peer_name,
            _milliseconds(row.peer_seconds),
            f"{row.peer_seconds / row.seconds:.2f}",
            _mebibytes(row.extra_bytes),
            _mebibytes(row.peer_extra_bytes),
            _mebibytes(row.dense_bytes),
            _milliseconds(row.first_seconds),
            _milliseconds(row.plan_seconds),
            f"{row.error:.1e}",
        )
    return shown


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _mebibytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**20:.0f} MiB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all workloads and print the table."""
    parser = argparse.ArgumentParser(description="the CPU executor beside torch's SDPA")
    parser.add_argument("--tokens", type=int, default=8192, help="length of the sequence")
    parser.add_argument("--repeats", type=int, default=7, help="calls that a median is taken of")
    options = parser.parse_args(arguments)
    console = Console()
    rows = []
    for workload in WORKLOADS:
        with console.status(f"measuring {workload.name}"):
            rows.append(measure(replace(workload, tokens=options.tokens), options.repeats))
    console.print(table(rows))


if __name__ == "__main__":
    main()
