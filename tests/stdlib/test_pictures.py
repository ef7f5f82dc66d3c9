"""The pictures in the docstrings are what the variants compute."""

from __future__ import annotations

import inspect
import re
import textwrap

import pytest

import flexdsl as fx

VARIANTS = {name: getattr(fx.stdlib, name) for name in fx.stdlib.__all__}
HEADING = re.compile(r"^(\w+)(\(.*\)), (.*):$", re.MULTILINE)


def picture_of(name: str) -> tuple[fx.Mod, str, list[list[str]]]:
    """The mod of the heading's call, what is shown, and the cells below it."""
    text = textwrap.dedent(inspect.getdoc(VARIANTS[name]))
    heading = HEADING.search(text)
    assert heading and heading[1] == name, "a picture's heading is a call of the variant"
    mod = eval(heading[1] + heading[2], dict(VARIANTS))
    rows = [line.split() for line in text[heading.end() :].split("\n\n")[1].splitlines()]
    return mod, heading[3], rows


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "alibi_slopes"])
def test_picture(name):
    mod, shown, rows = picture_of(name)
    cells = [(q, kv) for q in range(len(rows)) for kv in range(len(rows[0]))]
    if shown == "queries down, keys across":
        drawn = {(q, kv): rows[q][kv] == "#" for q, kv in cells}
        assert all(cell in "#." for row in rows for cell in row)
        assert drawn == {(q, kv): mod(0, 0, q, kv) for q, kv in cells}
    elif shown.startswith("added to a score of 0"):
        assert rows == [
            [f"{mod(0.0, 0, 0, q, kv):+.0f}".replace("-0", "+0") for kv in range(len(rows))]
            for q in range(len(rows))
        ]
    else:
        scores = [float(s) for s in re.findall(r"-?\d+", shown)]
        assert rows == [[f"{mod(score, 0, 0, 0, 0):+.2f}" for score in scores]]


def test_every_file_says_its_source():
    for module in {inspect.getmodule(variant) for variant in VARIANTS.values()}:
        assert re.search(r"\bet al\. \d{4}|Team \d{4}|https://", module.__doc__), module.__name__
