"""README: its Python runs, its commands exist, its map of the house is the house."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_python(code, tmp_path):
    # From a file, so that errors could point into it.
    path = tmp_path / "block.py"
    path.write_text(code)
    exec(compile(code, str(path), "exec"), {"__name__": "readme"})


def test_commands_exist():
    from flexdsl.cli.main import main

    named = set(re.findall(r"flexdsl ([a-z]+)", README)) & set(main.list_commands(None))
    assert named >= {"bench", "build", "check", "demo", "doctor", "plan", "show", "verify"}
    for name in named:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, result.output


def test_continuous_integration_runs_the_test_command():
    install, run = re.search(r"^(pip install -e '\.\[test\]') && (pytest)$", README, re.M).groups()
    steps = (ROOT / ".ci" / "run").read_text().splitlines()
    assert steps.index(install) < steps.index(run)


def test_the_map_names_every_room():
    rooms = {p.name for p in (ROOT / "flexdsl").iterdir() if (p / "__init__.py").exists()}
    named = set(re.findall(r"^\| `(?:flexdsl/)?(\w+)/` \|", README, re.MULTILINE))
    assert named == rooms | {"codegen", "stdlib"}
