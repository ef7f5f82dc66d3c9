"""`flexdsl doctor`: every part is told, and what is broken is said with what to do."""

from __future__ import annotations

import shutil

import pytest
import torch
from click.testing import CliRunner

from flexdsl.cli.main import main
from flexdsl.runtime import doctor

NAMES = ["python", "torch", "triton", "gpu", "compiler", "cache", "hypothesis", "matplotlib"]
NAMES += [f"backend {name}" for name in ("cpu", "triton", "hopper", "reference")] + ["targets"]


def run() -> tuple[int, str]:
    result = CliRunner().invoke(main, ["doctor"])
    return result.exit_code, result.output


def test_everything_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("FLEXDSL_CACHE_DIR", str(tmp_path / "new"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    code, out = run()
    told = [line[3:22].strip() for line in out.splitlines() if not line.startswith("   ")]
    assert list(dict.fromkeys(n for n in told if n != "driver")) == NAMES
    assert code == 0 and f"ok torch              {torch.__version__}" in out
    assert f"{tmp_path / 'new'}, 0 kernels" in out


def test_a_machine_without_a_gpu_is_no_broken_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checks = {c.name: c for c in doctor.examine()}
    assert checks["gpu"].state == checks["backend triton"].state == "absent"
    assert "TRITON_INTERPRET=1" in checks["backend triton"].advice
    assert checks["backend cpu"].state == "ok"


@pytest.mark.parametrize(
    ("plant", "name", "found", "advice"),
    [
        (lambda m: m.setenv("FLEXDSL_CACHE_DIR", "/proc/none"), "cache", "/proc/none", "FLEXDSL"),
        (lambda m: m.setenv("CC", "no-such-cc"), "compiler", "no-such-cc", "unset CC"),
        (
            lambda m: m.setattr(doctor, "version", lambda name: "1.0"),
            "torch",
            "1.0, and flexdsl was tested with",
            "pip install 'torch",
        ),
    ],
)
def test_what_is_broken_is_said_with_what_to_do(plant, name, found, advice, monkeypatch):
    plant(monkeypatch)
    check = next(c for c in doctor.examine() if c.name == name)
    assert check.state == "broken" and found in check.found and check.advice.startswith(advice)
    code, out = run()
    assert code == 1 and f"!! {name}" in out


def test_without_a_compiler_kernels_cannot_start(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check = next(c for c in doctor.examine() if c.name == "compiler")
    assert check.state == ("broken" if torch.cuda.is_available() else "absent")
    assert "gcc or clang" in check.advice


def test_a_hopper_gpu_has_its_own_backend(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    states = {c.name: c.state for c in doctor._backends()}
    assert states == dict.fromkeys(NAMES[8:12], "ok")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert {c.name: c.state for c in doctor._backends()}["backend hopper"] == "absent"
