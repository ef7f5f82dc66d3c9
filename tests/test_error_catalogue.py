"""The catalogue of errors: a code, a class, an entry of the documentation and an example for each.

Codes live in `flexdsl/errors.py`, and entries in the page of errors, whose examples are run by
`test_documentation.py`: text and position are compared there. Here page and classes are held to
each other, and every place that raises to both.
"""

from __future__ import annotations

import ast
import re

import pytest

from flexdsl import errors
from flexdsl.errors import FlexdslError
from support.pages import BLOCK, PAGES, ROOT, run_page

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, FlexdslError) and kind is not FlexdslError
}
PAGE = (PAGES / "errors.md").read_text()
ENTRIES = dict(re.findall(r"^## (FX\d{3})\n\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
FILES = [
    p for room in ("flexdsl", "codegen", "stdlib") for p in sorted((ROOT / room).rglob("*.py"))
]
# What is raised besides: protocols of Python, and what one room raises and catches for itself.
PROTOCOLS = {"AttributeError", "EOFError", "KeyError", "NotImplementedError", "OSError"}
# No user wrote what is wrong, or the message is a whole program.
WITHOUT_FIX = {"InternalError", "VerificationError"}
WITHOUT_PLACE = {
    "BundleError",
    "PlanError",
    "BackendError",
    "TargetError",
    "ArgumentError",
    "VerificationError",
}


def test_every_class_has_an_entry_and_every_entry_a_class():
    assert {kind.code: name for name, kind in CLASSES.items()} == {
        code: re.match(r"`(\w+)`: ", text)[1] for code, text in ENTRIES.items()
    }
    assert list(ENTRIES) == sorted(ENTRIES)


def test_every_entry_has_an_example_that_raises_it():
    printed = [out for _, out, _ in run_page(PAGES / "errors.md")]
    for code, text in ENTRIES.items():
        shown = [m[2] for m in BLOCK.finditer(text) if m[1] == "text"]
        assert shown and all(x.startswith(f"{code}: ") and x in printed for x in shown)


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - WITHOUT_PLACE - {"InternalError"}))
def test_examples_point_at_the_source(name):
    shown = [m[2] for m in BLOCK.finditer(ENTRIES[CLASSES[name].code]) if m[1] == "text"]
    assert any(re.search(r"--> (example\.py|<text>):\d+:\d+\n.*\n.*\n[ |]*\^+", x) for x in shown)


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - WITHOUT_FIX))
def test_examples_say_what_to_write(name):
    shown = [m[2] for m in BLOCK.finditer(ENTRIES[CLASSES[name].code]) if m[1] == "text"]
    assert all("  write instead: " in x for x in shown)


def raised(path) -> list[tuple[int, str]]:
    """Line and name of each class that a file raises or makes; names of functions are left out."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        call = node.exc if isinstance(node, ast.Raise) else node
        if isinstance(call, ast.Call):
            call = call.func
        name = call.id if isinstance(call, ast.Name) else getattr(call, "attr", "")
        made = isinstance(node, ast.Raise | ast.Call)
        if made and isinstance(name, str) and re.fullmatch(r"[A-Z]\w*Error", name):
            found.append((node.lineno, name))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_whatever_is_raised_is_in_the_catalogue(path):
    caught = {"ImportError", "ModuleNotFoundError"}
    for line, name in raised(path):
        assert name in CLASSES or name in PROTOCOLS | caught, f"{path}:{line} raises {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_error_says_what_to_write(path):
    if path.name == "errors.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        name = getattr(getattr(node, "func", None), "id", None) or getattr(
            getattr(node, "func", None), "attr", None
        )
        if isinstance(node, ast.Call) and name in CLASSES.keys() - WITHOUT_FIX:
            keywords = {k.arg for k in node.keywords}
            assert "fix" in keywords, f"{path}:{node.lineno}: {name} without fix="
