"""Messages: a caret under the right characters, and what, why and what to write instead."""

from __future__ import annotations

import pickle

import pytest

from flexdsl import errors
from flexdsl.errors import FlexdslError, Span, TextError

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, FlexdslError)]


def test_codes_are_distinct():
    assert len({c.code for c in CLASSES}) == len(CLASSES)


def test_a_whole_message():
    span = Span("<text>", 3, 4, 9, "q > windw")
    caller = Span("<text>", 1, 0, 3, "f()")
    error = TextError("no such name", why="the reason", fix="window", span=span).at(
        span, (("called from", caller),)
    )
    assert type(error) is TextError
    assert str(error).splitlines() == [
        "FX107: no such name",
        "  --> <text>:3:5",
        "   |",
        " 3 | q > windw",
        "   |     ^^^^^",
        "  called from",
        "  --> <text>:1:1",
        "   |",
        " 1 | f()",
        "   | ^^^",
        "  why: the reason",
        "  write instead: window",
    ]


@pytest.mark.parametrize(
    ("span", "carets"),
    [
        (Span("<text>", 1, 2, 3, "\t\tx = 1"), "\t\t^"),
        (Span("<text>", 1, 5, 5, "q >= "), "     ^"),
        (Span("<text>", 1, 0, 99, "q"), "^"),
    ],
)
def test_the_caret_stands_under_its_characters(span, carets):
    assert span.render().splitlines()[-1] == f"   | {carets}"


def test_a_span_of_a_file_reads_its_line(tmp_path):
    path = tmp_path / "mods.py"
    path.write_text("a = 1\nb = a + 2\n")
    assert Span(str(path), 2, 4, 9).render().splitlines()[-2:] == [
        " 2 | b = a + 2",
        "   |     ^^^^^",
    ]


def test_a_span_without_source_says_the_place():
    assert Span("<gone>", 7, 2, 3).render() == "  --> <gone>:7:3"


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_crosses_to_another_process(kind):
    error = kind("what", why="why", fix="fix", span=Span("f.py", 1, 0, 1, "x"), notes=())
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind and str(copy) == str(error) and copy.span == error.span
