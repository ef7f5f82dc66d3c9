"""The pictures in the docstrings are what the variants compute, and every file says its source."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import flexdsl as fx
from flexdsl import stdlib

ENTRIES = {entry.name: entry for entry in stdlib.catalog()}
DRAWN = [name for name, entry in ENTRIES.items() if entry.kind in ("mask", "score")]
HEADING = re.compile(r"^(\w+)(\(.*\)), (.*):$", re.MULTILINE)
ACROSS = "queries down, keys across"


def picture_of(name: str) -> tuple[fx.Mod, str, list[list[str]]]:
    """The mod of the heading's call, what is shown, and the cells below it."""
    text = inspect.getdoc(getattr(stdlib, name))
    heading = HEADING.search(text)
    assert heading and heading[1] == name, "a picture's heading is a call of the variant"
    mod = eval(heading[1] + heading[2], {name: getattr(stdlib, name)})
    rows = [line.split() for line in text[heading.end() :].split("\n\n")[1].splitlines()]
    return mod, heading[3], rows


@pytest.mark.parametrize("name", DRAWN)
def test_picture(name):
    mod, shown, rows = picture_of(name)
    assert {len(row) for row in rows} == {len(rows[0])}
    cells = [(q, kv) for q in range(len(rows)) for kv in range(len(rows[0]))]
    if shown == ACROSS:
        drawn = {(q, kv): rows[q][kv] == "#" for q, kv in cells}
        assert all(cell in "#." for row in rows for cell in row)
        assert drawn == {(q, kv): bool(mod(0, 0, q, kv)) for q, kv in cells}
        assert 0 < sum(drawn.values()) < len(cells)
    elif score := re.fullmatch(r"of a score of (\d)", shown):
        assert {(q, kv): float(rows[q][kv]) for q, kv in cells} == {
            (q, kv): pytest.approx(float(mod(float(score[1]), 0, 0, q, kv)), rel=6e-3, abs=1e-6)
            for q, kv in cells
        }
    else:
        scores = [float(s) for s in re.findall(r"-?\d+", shown)]
        assert rows == [[f"{mod(score, 0, 0, 0, 0):+.2f}" for score in scores]]


@pytest.mark.parametrize("name", ENTRIES)
def test_the_catalog_has_what_a_file_must_say(name):
    entry = ENTRIES[name]
    assert entry.summary.endswith(".") and len(entry.summary) <= 98
    assert entry.formula and "Source" not in entry.formula
    assert re.search(r"https://|row-major order", entry.source), entry.source
    assert entry.signature.startswith("(")


def test_every_file_is_in_the_catalog_and_short():
    folder = Path(stdlib.__file__).parent
    shared = {"__init__", "permute", "reorder", "tiled_grid", "module"}
    files = {p for p in folder.glob("*/*.py") if p.stem not in shared}
    homes = {folder / f"{home.replace('.', '/')}.py" for home in stdlib.HOMES.values()}
    assert homes == files | {folder / "listing.py"}
    for file in folder.glob("*/*.py"):
        assert file.read_text().count("\n") <= 100, file
    for name, home in stdlib.HOMES.items():
        assert getattr(import_module(f"flexdsl.stdlib.{home}"), name) is getattr(stdlib, name)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stdlib.nothing  # noqa: B018
    assert set(stdlib.__all__) <= set(dir(stdlib))
