"""Peak memory of a call: torch's allocator on a GPU, resident memory of a fresh process on the CPU.

A process that has computed before holds memory that it would use again unseen, and has traced what
a first call must; a fresh one has not. So it also measures the first call of a variant.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flexdsl as fx
from flexdsl.bench.peers import PEERS, Case, Peer, Prepared, make_case
from flexdsl.bench.workloads import WORKLOADS, Shape

SHORT = 128  # tokens of the first call of a variant: what it costs beside the arithmetic
MIB = 2**20
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")

Measured = tuple[Any, float | None]


def on_gpu(prepared: Prepared, case: Case, backward: bool) -> dict[str, float | None]:
    """`forward_mib`, and `backward_mib` if asked for, of a peer that has been called before."""
    return _peaks(prepared, case, backward, _rise_on_gpu)


def in_fresh_process(peer: Peer, case: Case, backward: bool) -> dict[str, float | None]:
    """The same for the CPU, and for flexdsl `short_s`, its first call on `SHORT` tokens."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        names = peer.name, case.workload.name
        return pool.submit(_fresh, *names, case.shape, backward).result()


def _fresh(peer: str, workload: str, shape: Shape, backward: bool) -> dict[str, float | None]:
    made = next(w for w in WORKLOADS if w.name == workload)
    case = make_case(made, shape, torch.device("cpu"), torch.float32, gradients=backward)
    figures: dict[str, float | None] = {}
    if peer == "flexdsl":
        short = [x[:, :, :SHORT].detach() for x in case.tensors]
        attention = fx.attention  # imported here
        begin = time.perf_counter()
        attention(*short, mask=case.mods.mask, score=case.mods.score)
        figures["short_s"] = time.perf_counter() - begin
    prepared = next(p for p in PEERS if p.name == peer).prepare(case)
    return figures | _peaks(prepared, case, backward, rise_on_cpu)


def _peaks(
    prepared: Prepared, case: Case, backward: bool, rise: Callable[[Callable[[], Any]], Measured]
) -> dict[str, float | None]:
    with torch.set_grad_enabled(backward):
        out, forward = rise(prepared.call)
    if not backward:
        return {"forward_mib": forward}

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, case.tensors, case.gradient)

    return {"forward_mib": forward, "backward_mib": rise(gradients)[1]}


def _rise_on_gpu(call: Callable[[], Any]) -> Measured:
    """The result of a call, and what allocated memory rises by at its peak."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    return result, (torch.cuda.max_memory_allocated() - before) / MIB


def rise_on_cpu(call: Callable[[], Any]) -> Measured:
    """The result of a call, and what resident memory rises by at its peak.

    The rise is None where the system does not tell it.
    """
    try:
        _CLEAR.write_text("5")  # the highest value so far becomes the present one
        before = _resident("VmRSS")
    except OSError:
        return call(), None
    result = call()
    return result, (_resident("VmHWM") - before) / MIB


def _resident(field: str) -> int:
    """Bytes of resident memory now (VmRSS) or at its highest (VmHWM)."""
    found = re.search(rf"{field}:\s*(\d+) kB", _STATUS.read_text())
    if found is None:
        raise OSError(f"no {field} in {_STATUS}")
    return int(found[1]) * 1024
