"""The CPU benchmark runs, and what it says of memory and agreement can be believed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from flexdsl.bench import cpu


def test_a_workload_is_measured():
    row = cpu.measure(replace(cpu.WORKLOADS[0], tokens=2048, heads=1), repeats=1)
    assert row.error < 1e-5
    assert row.dense_bytes == 4 * 2048 * 2048
    assert min(row.seconds, row.peer_seconds, row.first_seconds, row.plan_seconds) > 0
    if row.peer_extra_bytes is not None:
        # Positive control: the peer holds its dense mask in floats.
        assert row.dense_bytes / 4 <= row.peer_extra_bytes <= 4 * row.dense_bytes
    console = Console(width=240, record=True)
    console.print(cpu.table([row]))
    assert row.workload.name in console.export_text()


@pytest.mark.parametrize("workload", cpu.WORKLOADS, ids=lambda w: w.name)
def test_peers_compute_the_same(workload):
    small = replace(workload, tokens=512, heads=2)
    tensors = small.tensors()
    torch.testing.assert_close(small.ours()(*tensors), small.peer()(*tensors))
