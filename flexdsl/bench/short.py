"""Short calls: what one of many in a row takes, and what its kernels take of that.

Where a call is short the GPU waits for Python, and a time by events of one call has both in it.
Which calls are measured so is for `measure.py` and `host.py` to say.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from flexdsl.bench.machine import Machine

CALLS = 20  # in a row: fewer launches than the driver takes without waiting


def in_a_row(call: Callable[[], Any], machine: Machine, rounds: int) -> tuple[float, float]:
    """Medians of two times of a call, in microseconds, in rounds of `CALLS` calls.

    Returns:
        Until a call is back, while the GPU still works; and of each call, the wait for the GPU
        after the last one included.
    """
    returns, each = [], []
    for _ in range(3):
        call()
    machine.synchronize()
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(CALLS):
            call()
        back = time.perf_counter()
        machine.synchronize()
        returns.append((back - begin) / CALLS * 1e6)
        each.append((time.perf_counter() - begin) / CALLS * 1e6)
    return statistics.median(returns), statistics.median(each)


def of_kernels(call: Callable[[], Any], machine: Machine) -> float:
    """What the GPU works for a call, in microseconds: all kernels and fills, no gap between them.

    It is the profiler's figure, a mean, with the tensors in the GPU's cache as in a row of calls.
    """
    call()
    machine.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(CALLS):
            call()
        machine.synchronize()
    on_gpu = (e for e in found.key_averages() if e.device_type.name == "CUDA")
    return float(sum(e.self_device_time_total for e in on_gpu)) / CALLS
