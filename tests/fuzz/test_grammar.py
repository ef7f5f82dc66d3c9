"""Random texts through the grammar: each is a mod that reads back, or one clear error.

Tokens in any order, and texts of programs in which tokens were lost, doubled, replaced or moved.
"""

from __future__ import annotations

import ast
import re

from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.errors import FlexdslError, ResultError, TextError, TypeMismatchError
from flexdsl.frontend.syntax import Source, parse_tree
from flexdsl.frontend.text import CONSTANTS, FUNCTIONS, INFIX, PREFIX
from flexdsl.testing import strategies
from support.fuzz import at_most

SIGNS = sorted({*INFIX, *PREFIX, *"()[],:=", "if", "else"})
NAMES = sorted({*FUNCTIONS, *CONSTANTS, "q", "kv", "h", "b", "score", "t", "w", "mask"})
NUMBERS = ["0", "1", "7", "2.5", "1e9", "9223372036854775807", "9223372036854775808", "1e999"]
ODD = ["lambda", "**", "not in", "is", "'", "?", "\n", "\t", "0x1", "1_0", "é", "\x00", "#", "->"]
TOKENS = st.sampled_from([*SIGNS, *NAMES, *NUMBERS, *ODD])
SPLIT = re.compile(r"\s+|\w+|[<>=!]=|//|<<|>>|.")


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """The text of a program with a few of its tokens changed."""
    mod = draw(strategies.masks(depth=2) | strategies.scores(depth=2))
    tokens = SPLIT.findall(mod.text)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(tokens) - 1)))
        other = draw(st.integers(0, max(0, len(tokens) - 1)))
        match draw(st.sampled_from(["lose", "double", "replace", "swap"])):
            case "lose":
                tokens[at : at + 1] = []
            case "double":
                tokens[at:at] = tokens[at : at + 1]
            case "replace":
                tokens[at : at + 1] = [draw(TOKENS)]
            case "swap" if tokens:
                tokens[at % len(tokens)], tokens[other % len(tokens)] = (
                    tokens[other % len(tokens)],
                    tokens[at % len(tokens)],
                )
    return "".join(tokens)


@at_most(400)
@given(damaged() | st.lists(TOKENS, max_size=20).map(" ".join) | st.text(max_size=20))
def test_any_text_is_a_mod_or_one_clear_error(text):
    try:
        mod = fx.parse(text)
    except (TextError, TypeMismatchError, ResultError) as error:
        check_message(error, text)
        return
    again = fx.parse(mod.text)
    assert again.expr is mod.expr and again.kind is mod.kind
    if parse_tree(Source(text)).data != "declared" and not re.search(r"\b0\d", text):
        # What it takes for an expression is one of Python, which has no numbers such as 007.
        ast.parse(f"({text})", mode="eval")


def check_message(error: FlexdslError, text: str) -> None:
    assert error.what and len(error.what) < 400
    if not text.strip():
        return
    assert error.span is not None, f"no place: {error}"
    line = text.split("\n")[error.span.line - 1]
    assert error.span.source_line() == line
    assert 0 <= error.span.column <= len(line)
    assert f":{error.span.line}:{error.span.column + 1}" in str(error)
    assert "^" in str(error)
