"""The benchmark of plans: that it measures, and what it says; no time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from flexdsl.bench import device_plans, plans
from flexdsl.errors import ArgumentError


@pytest.mark.parametrize("name", plans.MASKS)
def test_every_mask_is_measured(name: str) -> None:
    figure = plans.measure(name, 4096, repeats=1)
    assert figure.seconds > 0 and figure.peak > 0
    assert (figure.kind == "closed-form") == (figure.nbytes == 0)
    assert name in plans.table([figure])


def test_the_command_writes_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(plans, "LENGTHS", (1024, 2048))
    path = tmp_path / "growth.png"
    result = CliRunner().invoke(
        plans.main, ["--only", "window", "--only", "documents", "--plot", str(path)]
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("window") == 2 and "closed-form" in result.output
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no CUDA device 'cpu'"):
        device_plans.measure_on("cpu", 1024)


@pytest.mark.gpu
def test_the_planner_on_a_device_is_measured() -> None:
    figures = device_plans.measure_on("cuda", 4096)
    assert [f.name for f in figures] == list(device_plans.IDS)
    assert all(f.call > 0 and f.graph > 0 and f.proofs > 0 for f in figures)
    assert "sorted ids" in device_plans.table_of_device([figures])
