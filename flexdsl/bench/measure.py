"""One workload, measured: each peer's times, the work done in them, cold start, plan, and memory.

What fails for one peer is kept as its error, and the others go on. Peers take turns, round by
round, so that a change of the clock's speed meets all of them. How a device keeps time and counts
memory stands in `gpu.py` and `cpu.py`; nothing is printed here.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import flexdsl as fx
from flexdsl.bench import memory, short
from flexdsl.bench.machine import Machine
from flexdsl.bench.peers import Case, Peer, Prepared, make_case, plan_of
from flexdsl.bench.workloads import WORKLOADS, Shape, Workload

BACKWARD_WORK = 2.5  # five matrix products where the forward pass has two
LONG = 131072  # the length for which flexdsl's plan is timed besides
SHORT = 4096  # queries of all batches up to which the host counts
ROWS = 20  # of calls of one such workload
LONGEST_ERROR = 200  # characters

Figures = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long.

    Attributes:
        forward, backward: which phases.
        quick: fewer and shorter rounds; on the CPU also no fresh process, so no memory.
        tokens: a length instead of the workload's own.
    """

    forward: bool = True
    backward: bool = True
    quick: bool = False
    tokens: int | None = None


@dataclass(frozen=True)
class Row:
    """What was measured of a peer at a workload; None where it was not, or could not be.

    Attributes:
        shape: such as "B2 H16 N8192 D128".
        pairs: allowed pairs of all batches and heads: the work that counts.
        forward_ms, backward_ms: medians.
        forward_tflops, backward_tflops: 4 * pairs * D in the time of a forward pass, and 2.5 times
            as much in that of a backward pass, in 1e12 per second.
        cold_s: getting ready and the first call of each phase, with compilers' caches empty.
        short_s: the first forward call on 128 tokens in a fresh process, after imports. (CPU)
        plan_ms: making the plan or block mask once more.
        plan_long_ms: making flexdsl's plan of the same mask for 131072 tokens.
        forward_mib, backward_mib: what memory rises by at the peak of one call, results included;
            on the CPU resident memory in a fresh process.
        forward_call_us, backward_call_us: each of many calls in a row, by the clock of the host, on
            a GPU and up to `SHORT` queries.
        forward_kernel_us, backward_kernel_us: what the GPU works of that.
        difference: largest absolute difference of the output to flexdsl's.
        error: why figures are missing.
    """

    workload: str
    peer: str
    shape: str
    pairs: int | None = None
    forward_ms: float | None = None
    backward_ms: float | None = None
    forward_tflops: float | None = None
    backward_tflops: float | None = None
    cold_s: float | None = None
    short_s: float | None = None
    plan_ms: float | None = None
    plan_long_ms: float | None = None
    forward_mib: float | None = None
    backward_mib: float | None = None
    forward_call_us: float | None = None
    backward_call_us: float | None = None
    forward_kernel_us: float | None = None
    backward_kernel_us: float | None = None
    difference: float | None = None
    error: str | None = None


class _Entry:
    """A peer at a workload while it is being measured, and what is known of it so far."""

    def __init__(self, peer: Peer, case: Case, machine: Machine) -> None:
        self.peer, self.case, self.machine = peer, case, machine
        self.figures: Figures = {}
        self.prepared: Prepared | None = None
        self.out: Tensor | None = None
        self.error: str | None = None
        self.works = {"forward", "backward"}

    def attempt(self, step: Callable[[_Entry], Figures], phase: str = "forward") -> None:
        """Add the figures of `step`, or keep its error and do no more of that phase.

        A peer that fails at its forward pass has no backward pass either.
        """
        if phase not in self.works:
            return
        try:
            self.figures |= step(self)
        except Exception as error:
            self.error = brief(error)
            self.works -= {phase} if phase == "backward" else self.works

    def forward(self, graph: bool) -> Tensor:
        """The output, with or without the graph for a backward pass."""
        assert self.prepared is not None
        with torch.set_grad_enabled(graph):
            return self.prepared.call()

    def backward(self) -> tuple[Tensor, ...]:
        """The gradients of q, k and v, by the graph of `out`."""
        assert self.out is not None
        case = self.case
        return torch.autograd.grad(self.out, case.tensors, case.gradient, retain_graph=True)


def measure(
    workload: Workload,
    peers: Sequence[Peer],
    settings: Settings,
    machine: Machine,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """The rows of `workload`, one for each of `peers` that supports it, flexdsl's first.

    Args:
        say: told what is being done.

    It does not raise for what a peer or the workload does: the row has the error.
    """
    shape = workload.shape(machine.device)
    assert shape is not None
    if settings.tokens is not None:
        shape = replace(shape, tokens=settings.tokens)
    settings = replace(settings, backward=settings.backward and workload.backward)
    try:
        return _rows(workload, shape, peers, settings, machine, say)
    except Exception as error:
        return [Row(workload.name, peers[0].name, str(shape), error=brief(error))]
    finally:
        gc.collect()  # tensors stand in cycles with the graphs that made them
        machine.free()


def _rows(
    workload: Workload,
    shape: Shape,
    peers: Sequence[Peer],
    settings: Settings,
    machine: Machine,
    say: Callable[[str], None],
) -> list[Row]:
    where = machine.device, machine.dtype
    case = make_case(workload, shape, *where, gradients=settings.backward)
    pairs = int(plan_of(case.mods.mask, shape).pairs)
    entries = [_Entry(p, case, machine) for p in peers if p.supports(workload)]
    with machine.fresh_caches():
        _measure(entries, settings, say)
    return [_row(e, pairs) for e in entries]


def warm_up(peers: Sequence[Peer], machine: Machine) -> None:
    """Load what every workload needs, so that the cold start of the first has none of it."""
    # An error here will be met again, and reported, by each workload.
    with suppress(Exception):
        machine.load_compiler([p.name for p in peers])
    with suppress(Exception):
        shape = Shape(1, 1, 1, 128, 16)
        tiny = make_case(WORKLOADS[0], shape, machine.device, machine.dtype, gradients=True)
        torch.autograd.grad(fx.attention(*tiny.tensors), tiny.tensors, tiny.gradient)


def brief(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 1] + "…"


def _measure(entries: list[_Entry], settings: Settings, say: Callable[[str], None]) -> None:
    def each(what: str, step: Callable[[_Entry], Figures], phase: str = "forward") -> None:
        for entry in entries:
            say(f"{what}, {entry.peer.name}")
            entry.attempt(step, phase)

    for entry in entries:
        say(f"first call, {entry.peer.name}")
        entry.attempt(lambda e: _first_forward(e, settings.backward))
        if settings.backward:
            entry.attempt(_first_backward, "backward")
    each("difference", lambda e: _difference(e, entries[0]))
    phases: dict[str, Callable[[_Entry], Any]] = {}
    if settings.forward:
        phases["forward"] = lambda e: e.forward(graph=False)
    if settings.backward:
        phases["backward"] = lambda e: e.backward()
    for phase, call in phases.items():
        _race(phase, call, entries, settings.quick, say)
        each(f"short {phase}", partial(_short_call, phase, call), phase)
    each("plan", lambda e: _plan_cost(e, settings.quick))
    each("memory", lambda e: _memory(e, settings))


def _race(
    phase: str,
    call: Callable[[_Entry], Any],
    entries: list[_Entry],
    quick: bool,
    say: Callable[[str], None],
) -> None:
    """The median of a phase for each peer, by rounds in which all take their turn."""
    times: dict[_Entry, list[float]] = {e: [] for e in entries}

    def turn(entry: _Entry) -> Figures:
        times[entry].append(entry.machine.milliseconds(lambda: call(entry), quick))
        return {f"{phase}_ms": statistics.median(times[entry])}

    rounds = entries[0].machine.rounds(quick)
    for number in range(rounds):
        for entry in entries:
            say(f"{phase} {number + 1}/{rounds}, {entry.peer.name}")
            entry.attempt(turn, phase)


def _first_forward(entry: _Entry, graph: bool) -> Figures:
    begin = time.perf_counter()
    entry.prepared = entry.peer.prepare(entry.case)
    entry.out = entry.forward(graph)
    entry.machine.synchronize()
    return {"cold_s": time.perf_counter() - begin}


def _first_backward(entry: _Entry) -> Figures:
    begin = time.perf_counter()
    entry.backward()
    entry.machine.synchronize()
    return {"cold_s": entry.figures["cold_s"] + time.perf_counter() - begin}


def _short_call(phase: str, call: Callable[[_Entry], Any], entry: _Entry) -> Figures:
    shape, machine = entry.case.shape, entry.machine
    if machine.device.type == "cpu" or shape.batch * shape.queries > SHORT:
        return {}
    _, in_a_row = short.in_a_row(lambda: call(entry), machine, ROWS)
    kernels = short.of_kernels(lambda: call(entry), machine)
    return {f"{phase}_call_us": in_a_row, f"{phase}_kernel_us": kernels}


def _difference(entry: _Entry, ours: _Entry) -> Figures:
    if entry is ours or ours.out is None or entry.out is None:
        return {}
    found, expected = entry.out.detach().float(), ours.out.detach().float()
    return {"difference": (found - expected).abs().max().item()}


def _plan_cost(entry: _Entry, quick: bool) -> Figures:
    assert entry.prepared is not None
    figures: Figures = {}
    if entry.prepared.plan is not None:
        figures["plan_ms"] = _median_ms(entry.prepared.plan, entry.machine, quick)
    if entry.peer.name == "flexdsl":
        shape = replace(entry.case.shape, tokens=LONG)
        # Images and videos have no such length.
        with suppress(fx.errors.ArgumentError):
            mask = entry.case.workload.make(shape, entry.machine.device).mask
            figures["plan_long_ms"] = _median_ms(lambda: plan_of(mask, shape), entry.machine, quick)
    return figures


def _median_ms(call: Callable[[], Any], machine: Machine, quick: bool) -> float:
    """The median of a few calls, from the host's point of view."""
    taken = []
    for _ in range(3 if quick else 7):
        begin = time.perf_counter()
        call()
        machine.synchronize()
        taken.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(taken)


def _memory(entry: _Entry, settings: Settings) -> Figures:
    assert entry.prepared is not None
    backward = settings.backward and "backward" in entry.works
    if entry.machine.device.type != "cpu":
        return memory.on_gpu(entry.prepared, entry.case, backward)
    return {} if settings.quick else memory.in_fresh_process(entry.peer, entry.case, backward)


def _row(entry: _Entry, pairs: int) -> Row:
    case, figures = entry.case, entry.figures
    work = 4 * pairs * case.shape.dim
    for phase, factor in (("forward", 1.0), ("backward", BACKWARD_WORK)):
        if f"{phase}_ms" in figures:
            figures[f"{phase}_tflops"] = factor * work / figures[f"{phase}_ms"] / 1e9
    names = case.workload.name, entry.peer.name, str(case.shape)
    return Row(*names, pairs=pairs, error=entry.error, **figures)
