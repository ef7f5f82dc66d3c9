"""The benchmark of plans: that it measures, and what it says; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from flexdsl.bench import device_plans, plans
from flexdsl.errors import ArgumentError


@pytest.mark.parametrize("name", plans.MASKS)
def test_every_mask_is_measured(name: str) -> None:
    figure = plans.measure(name, 4096, repeats=1)
    assert figure.seconds >= 0 and figure.first_seconds >= 0 and figure.peak > 0
    assert (figure.kind == "closed-form") == (figure.nbytes == 0)
    assert name in plans.table([figure])


def test_the_growth_is_the_power_of_the_length() -> None:
    rows = [
        plans.Figure(name, n, "table", 2e-9 * n**power, 1.0, nbytes(n), 0)
        for name, power, nbytes in (("a", 1.5, lambda n: 8 * n), ("b", 0.0, lambda n: 0))
        for n in (1 << 14, 1 << 16, 1 << 20)
    ]
    a, b = plans.growth([*rows, plans.Figure("c", 1 << 14, "table", 1.0, 1.0, 8, 0)])
    assert (a.name, b.name, b.nbytes) == ("a", "b", None)
    assert a.seconds == pytest.approx(1.5) and a.nbytes == pytest.approx(1.0)
    assert b.seconds == pytest.approx(0.0)
    assert "a: time grows as tokens^1.50, bytes as tokens^1.00" in plans.table(rows)


def test_the_command_writes_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(plans, "LENGTHS", (1024, 2048))
    path, figures = tmp_path / "growth.png", tmp_path / "growth.json"
    asked = ["--only", "window", "--only", "documents", "--plot", str(path), "--json", str(figures)]
    result = CliRunner().invoke(plans.main, asked)
    assert result.exit_code == 0, result.output
    assert result.output.count("window") == 3 and "closed-form" in result.output
    assert path.read_bytes().startswith(b"\x89PNG")
    written = json.loads(figures.read_text())
    assert written["machine"]["device"] == "cpu" and len(written["figures"]) == 4
    assert [g["name"] for g in written["growth"]] == ["window", "documents"]


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no CUDA device 'cpu'"):
        device_plans.measure_on("cpu", 1024)


@pytest.mark.gpu
def test_the_planner_on_a_device_is_measured() -> None:
    figures = device_plans.measure_on("cuda", 4096)
    assert [f.name for f in figures] == list(device_plans.IDS)
    assert all(f.call > 0 and f.graph > 0 and f.proofs > 0 for f in figures)
    assert "sorted ids" in device_plans.table_of_device([figures])
