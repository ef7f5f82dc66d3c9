"""The pytest plugin, in pytest processes of their own: passes, failures, options, what it loads."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TESTS = """
import flexdsl as fx
import pytest

@pytest.fixture
def window():
    return 5

@pytest.mark.flexdsl_verify(backend="cpu")
@pytest.mark.parametrize("sink", [1, 2])
def test_right(window, sink):
    return (lambda b, h, q, kv: q >= kv and (q - kv < window or kv < sink)), fx.stdlib.causal()

@pytest.mark.flexdsl_verify(examples=20)
def test_wrong():
    return lambda b, h, q, kv: 12 % (kv - 4) == 0

@pytest.mark.flexdsl_verify
def test_nothing():
    pass

def test_unmarked():
    assert True
"""


def run_pytest(folder: Path, *arguments: str) -> str:
    (folder / "test_mods.py").write_text(TESTS)
    # By its name instead of by its entry point, which an older installation may not have.
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-p", "flexdsl.pytest_plugin", "--strict-markers"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=env, capture_output=True, text=True
    ).stdout


def test_marked_tests_verify_what_they_return(tmp_path):
    out = run_pytest(tmp_path, "-rA", "--flexdsl-examples", "7")
    assert "3 passed, 2 failed" in out or "2 failed, 3 passed" in out
    assert "causal: verified in 7 cases on backend 'cpu'" in out
    assert "FX401: mod: mod(0, 0, 0, 4) raises ZeroDivisionError" in out
    assert "Case(kv_len=5)" in out
    assert "Traceback" not in out and "verification.py" not in out
    assert "FX108: test_nothing returns None" in out


def test_the_mark_is_known_and_described(tmp_path):
    assert "@pytest.mark.flexdsl_verify" in run_pytest(tmp_path, "--markers")


def test_loading_it_imports_no_tensor_library():
    code = "import sys, flexdsl.pytest_plugin; print({'torch', 'hypothesis'} & {*sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"


def test_its_entry_point_names_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"flexdsl": "flexdsl.pytest_plugin"}
