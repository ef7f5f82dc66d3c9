"""Every example runs, as a user would run it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
# What makes one short enough for a test; {tmp} is an empty folder.
ARGUMENTS = {
    "train_tiny_gpt": ["--steps", "2", "--device", "cpu", "--plot", "{tmp}/loss.png"],
    "gallery": ["--out", "{tmp}/gallery.png"],
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path, tmp_path):
    arguments = [a.format(tmp=tmp_path) for a in ARGUMENTS.get(path.stem, [])]
    command = [sys.executable, str(path), *arguments]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout
    assert all(Path(a).stat().st_size > 1000 for a in arguments if a.endswith(".png"))


def test_the_gallery_shows_every_mask():
    from flexdsl import stdlib

    drawn = runpy.run_path(str(EXAMPLES[0].parent / "gallery.py"))["MASKS"]
    masks = {entry.name for entry in stdlib.catalog() if entry.kind == "mask"}
    assert {name.split(",")[0] for name in drawn} == masks
