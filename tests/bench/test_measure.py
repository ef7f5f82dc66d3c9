"""Measuring: rows have what they promise, and a failure of one peer is that peer's alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flexdsl.bench import measure, memory
from flexdsl.bench.cpu import Cpu
from flexdsl.bench.machine import find_machine
from flexdsl.bench.measure import Settings
from flexdsl.bench.peers import PEERS, Peer, Prepared, choose
from flexdsl.bench.workloads import WORKLOADS, Workload

MACHINE = Cpu(torch.device("cpu"))
CHOSEN = choose(None, MACHINE.device)
ON_CPU = [w for w in WORKLOADS if w.cpu]


def workload(name: str) -> Workload:
    return next(w for w in WORKLOADS if w.name == name)


@pytest.mark.parametrize("made", ON_CPU, ids=lambda w: w.name)
def test_a_workload_makes_its_rows(made):
    rows = measure.measure(made, CHOSEN, Settings(quick=True, tokens=196), MACHINE)
    assert [r.peer for r in rows] == ["flexdsl", "eager" if made.sdpa == "none" else "sdpa"]
    for row in rows:
        assert row.error is None
        assert min(row.forward_ms, row.backward_ms, row.cold_s, row.pairs) > 0
        work = 4 * row.pairs * made.cpu.dim
        assert row.forward_tflops == pytest.approx(work / (row.forward_ms / 1e3) / 1e12)
        assert row.backward_tflops == pytest.approx(2.5 * work / (row.backward_ms / 1e3) / 1e12)
    ours, theirs = rows
    assert ours.plan_ms > 0 and ours.difference is None and theirs.plan_ms is None
    assert theirs.difference < 1e-5
    assert (ours.plan_long_ms is None) == (made.name == "natten2d")


def test_memory_and_the_first_call_come_from_a_fresh_process():
    settings = Settings(tokens=2048)
    ours, theirs = measure.measure(workload("sliding_256"), CHOSEN, settings, MACHINE)
    assert ours.short_s > 0 and theirs.short_s is None
    if theirs.forward_mib is not None:
        # Positive control: the peer holds its dense mask in floats.
        assert 2048**2 * 4 / 2**20 <= theirs.forward_mib <= 10 * 2048**2 * 4 / 2**20
        # The gradients of q, k and v, at the least.
        assert ours.backward_mib >= 3 * 8 * 2048 * 64 * 4 / 2**20


def test_rise_of_memory_counts_what_is_freed_again():
    _, rise = memory.rise_on_cpu(lambda: bool(torch.ones(2**25).sum()))
    # 128 MiB of numbers; pages that others give back meanwhile count against it.
    assert rise is None or 120 <= rise < 192


@pytest.mark.parametrize(
    ("settings", "measured", "not_measured"),
    [
        (Settings(backward=False, quick=True, tokens=64), "forward_ms", "backward_ms"),
        (Settings(forward=False, quick=True, tokens=64), "backward_ms", "forward_ms"),
    ],
)
def test_one_phase(settings, measured, not_measured):
    for row in measure.measure(workload("causal"), CHOSEN, settings, MACHINE):
        assert getattr(row, measured) > 0 and getattr(row, not_measured) is None


def test_a_workload_without_a_backward_pass():
    decode = replace(workload("decode_b1"), cpu=workload("decode_b1").gpu)
    settings = Settings(quick=True, tokens=300)
    for row in measure.measure(decode, CHOSEN, settings, MACHINE):
        assert row.error is None and row.shape == "B1 H32:8 N1:300 D128" and row.pairs == 32 * 300
        assert row.forward_ms > 0 and row.backward_ms is None and row.backward_mib is None


@pytest.mark.parametrize(("tokens", "found"), [(1024, 2), (measure.SHORT, 2), (8192, 0)])
def test_short_calls_are_timed_in_a_row_too(monkeypatch, tokens, found):
    """On a GPU that is not there."""
    monkeypatch.setattr(measure.short, "of_kernels", lambda call, machine: 7.0)
    gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"), synchronize=lambda: None)
    case = SimpleNamespace(shape=replace(workload("full").gpu, batch=1, tokens=tokens))
    entry = SimpleNamespace(machine=gpu, case=case)
    calls = []
    figures = measure._short_call("forward", calls.append, entry)
    assert len(figures) == found and bool(calls) == bool(found)
    if found:
        assert figures["forward_kernel_us"] == 7.0 and figures["forward_call_us"] > 0


@pytest.mark.gpu
def test_kernels_alone_take_no_longer_than_calls():
    machine = find_machine("cuda")
    peers = choose(["flash"], machine.device)
    settings = Settings(quick=True)
    rows = measure.measure(workload("short_causal_1024"), peers, settings, machine)
    assert [r.peer for r in rows] == ["flexdsl", "flash"]
    for row in rows:
        assert 0 < row.forward_kernel_us < 1.2 * row.forward_call_us, row
        assert 0 < row.backward_kernel_us < 1.2 * row.backward_call_us, row


class OneWay(torch.autograd.Function):
    """A forward pass whose backward pass fails."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no way back\nand more lines")


def _fails(case):
    raise ImportError("no such engine")


BROKEN = Peer("broken", frozenset({"cpu"}), lambda w: True, _fails)
ONE_WAY = Peer(
    *("one-way", frozenset({"cpu"}), lambda w: True),
    lambda case: Prepared(lambda: OneWay.apply(case.tensors[0])),
)


@pytest.mark.parametrize("order", [1, -1])
def test_a_peer_that_fails_does_not_disturb_the_others(order):
    chosen = [PEERS[0], BROKEN, ONE_WAY][::order]
    rows = measure.measure(workload("causal"), chosen, Settings(quick=True, tokens=64), MACHINE)
    ours, broken, one_way = rows[::order]
    assert ours.error is None and ours.forward_ms > 0 and ours.backward_ms > 0
    assert broken.error == "ImportError: no such engine" and broken.forward_ms is None
    assert one_way.error == "RuntimeError: no way back"
    assert one_way.forward_ms > 0 and one_way.backward_ms is None


def test_a_workload_that_cannot_be_made_is_a_row():
    settings = Settings(quick=True, tokens=200)
    (row,) = measure.measure(workload("natten2d"), CHOSEN, settings, MACHINE)
    assert "must be a square" in row.error and row.forward_ms is None


def test_memory_is_given_back_between_workloads():
    import gc
    import weakref

    kept = []
    spy = replace(PEERS[0], prepare=lambda c: kept.append(weakref.ref(c)) or PEERS[0].prepare(c))
    measure.measure(workload("alibi"), [spy], Settings(quick=True, tokens=64), MACHINE)
    gc.collect()
    assert kept[0]() is None


def test_errors_are_brief():
    assert measure.brief(ValueError("\n\n  a\nb")) == "ValueError: a"
    assert measure.brief(ValueError()) == "ValueError"
    assert len(measure.brief(ValueError("x" * 1000))) == measure.LONGEST_ERROR
