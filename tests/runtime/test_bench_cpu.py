"""The CPU benchmark runs, and what it says of memory and agreement can be believed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from flexdsl.bench import cpu


@pytest.mark.parametrize("workload", cpu.WORKLOADS, ids=lambda w: w.name)
def test_a_workload_is_measured(workload):
    row = cpu.measure(replace(workload, tokens=512, heads=2), repeats=1)
    assert row.error < 1e-5
    assert row.dense_bytes == 4 * 2 * 512 * 512
    assert min(row.seconds, row.peer_seconds, row.first_seconds, row.plan_seconds) > 0
    console = Console(width=240, record=True)
    console.print(cpu.table([row]))
    assert workload.name in console.export_text()


def test_the_peak_of_memory_is_seen():
    """The peer with a dense mask has to hold it in floats: 2048 * 2048 * 4 bytes at least."""
    workload = replace(cpu.WORKLOADS[0], tokens=2048, heads=1)
    peak, _ = cpu._in_fresh_process(cpu._measure_fresh, workload, True)
    if peak is None:
        pytest.skip("the system does not tell resident memory")
    assert 2048 * 2048 <= peak <= 16 * 2048 * 2048
