"""`flexdsl bench`: the table, the files, and mistakes as messages with exit code 2."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from flexdsl.bench import report
from flexdsl.bench.measure import Row
from flexdsl.cli.main import main

TINY = ["--device", "cpu", "--quick", "--tokens", "64"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


def test_bench(tmp_path):
    figures, picture = tmp_path / "b.json", tmp_path / "b.png"
    files = "--json", str(figures), "--plot", str(picture)
    result = run(*TINY, "--only", "causal", "--only", "softcap", *files)
    assert result.exit_code == 0, result.output
    for word in ("causal", "softcap", "flexdsl", "sdpa", "eager", "B1 H8 N64 D64", "torch 2."):
        assert word in result.output
    assert picture.stat().st_size > 1000

    document = json.loads(figures.read_text())
    assert set(document) == {"schema", "machine", "settings", "rows"}
    assert document["schema"] == report.SCHEMA
    assert {"date", "device", "dtype", "name", "flexdsl", "torch", "triton", "python"} <= set(
        document["machine"]
    )
    assert document["settings"]["quick"] and document["settings"]["tokens"] == 64
    assert [(r["workload"], r["peer"]) for r in document["rows"]] == [
        *(("causal", "flexdsl"), ("causal", "sdpa")),
        *(("softcap", "flexdsl"), ("softcap", "eager")),
    ]
    for row in document["rows"]:
        assert set(row) == {f.name for f in fields(Row)}
        assert row["forward_ms"] > 0 and row["backward_ms"] > 0 and row["error"] is None


def test_an_error_is_in_the_table_and_the_others_go_on():
    result = run(*TINY, "--only", "natten2d", "--only", "causal", "--phase", "forward")
    assert result.exit_code == 0
    assert "ArgumentError" in result.output and "GFLOP/s" in result.output


VERSIONS = dict.fromkeys(("flexdsl", "torch", "triton"), "1")
MACHINE = {"device": "cuda", "name": "GPU", "dtype": "bfloat16", "date": "today"} | VERSIONS
ROWS = [
    Row("w", "flexdsl", "B1", 7, forward_ms=2.0, forward_tflops=512.4),
    Row("w", "flex", "B1", 7, forward_ms=3.0, forward_tflops=341.6, difference=1e-3),
    Row("v", "flexdsl", "B2", error="RuntimeError: out of luck"),
]


def test_table():
    console = Console(width=140, record=True)
    console.print(report.table(ROWS, MACHINE))
    text = console.export_text()
    assert "TFLOP/s" in text and "512" in text and "out of luck" in text
    assert "1.50" in text  # 3 ms in 2 ms
    assert "MiB" not in text  # nothing was measured there


def test_plot(tmp_path):
    for ending in report.PICTURES:
        report.plot(tmp_path / f"p{ending}", ROWS, MACHINE)
        assert (tmp_path / f"p{ending}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.000123, "0.0001"), (0.0123, "0.0123"), (9.876, "9.88"), (1234.5, "1234")],
)
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_help():
    text = run("--help").output
    for option in ("--only", "--peers", "--phase", "--json", "--plot", "--quick"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "casual"], "known: full, causal"),
        (["--only", "sta3d"], "there is no workload 'sta3d' on cpu"),
        (["--peers", "flx"], "known: flexdsl, flex"),
        (["--phase", "sideways"], "'sideways' is not one of"),
        (["--tokens", "0"], "0 is not in the range"),
        (["--json", "{tmp}/none/b.json"], "there is no folder"),
        (["--plot", "{tmp}/b.bmp"], "cannot plot to b.bmp"),
    ],
)
def test_mistakes(tmp_path: Path, arguments, message):
    result = run("--device", "cpu", "--quick", *(a.format(tmp=tmp_path) for a in arguments))
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_missing_plotting_library_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = run("--device", "cpu", "--plot", str(tmp_path / "b.png"))
    assert result.exit_code == 2 and "pip install 'flexdsl[plot]'" in result.output


def test_a_gpu_that_is_not_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = run("--device", "cuda")
    assert result.exit_code == 2 and "--device cpu" in result.output
