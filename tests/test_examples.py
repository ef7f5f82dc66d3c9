"""Every example runs, as a user would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path):
    found = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout
