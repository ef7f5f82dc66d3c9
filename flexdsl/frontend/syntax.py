"""Text -> tree of the grammar, and syntax errors in plain words with a caret.

What names mean and which types fit is for `text.py`. lark is imported at the first parse only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexdsl.errors import Span, TextError

if TYPE_CHECKING:
    from lark import Lark, Token, Tree
    from lark.exceptions import UnexpectedInput

# What other languages write, and what this one writes.
_HABITS = {
    "not in": "a != b and a != c, one comparison for each value",
    "in": "a == b or a == c, one comparison for each value",
    "is": "== to compare",
    "not": "parentheses: a == (not b)",
    "lambda": "the expression alone; b, h, q, kv and score are known",
    "&&": "and",
    "||": "or",
    "**": "x * x for a square, exp(y * log(x)) for a power",
    "][": "t[i, j] for t[i][j]",
    "=": "== to compare",
    "!": "not",
    "~": "not",
    "?": "a if condition else b",
    ".": "a plain function name, such as exp(x) for torch.exp(x)",
    "'": "a number for a text",
    '"': "a number for a text",
}

_PUNCTUATION = {
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
    "COMMA": "','",
    "COLON": "':'",
    "EQUAL": "'='",
    "_ELSE": "'else'",
    "$END": "the end of the text",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A text, and spans of it by offset."""

    text: str

    def span(self, start: int, end: int) -> Span:
        """The characters `start` (inclusive) to `end` (exclusive), cut at the end of the line."""
        line = self.text.count("\n", 0, start)
        first = self.text.rfind("\n", 0, start) + 1
        content = self.text[first:].split("\n", 1)[0]
        return Span("<text>", line + 1, start - first, min(end - first, len(content)), content)

    def span_of(self, part: Tree[Token] | Token) -> Span:
        """Where a part of the tree stands."""
        place: Any = getattr(part, "meta", part)
        return self.span(place.start_pos, place.end_pos)


def parse_tree(source: Source) -> Tree[Token]:
    """The tree of the grammar.

    Raises:
        TextError: the text does not parse.
    """
    from lark.exceptions import UnexpectedInput

    if not source.text.strip():
        raise TextError("the text is empty", fix="an expression such as q >= kv")
    try:
        return _parser().parse(source.text)
    except UnexpectedInput as error:
        raise _in_plain_words(source, error) from None


@cache
def _parser() -> Lark:
    from lark import Lark

    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def _in_plain_words(source: Source, error: UnexpectedInput) -> TextError:
    from lark.exceptions import UnexpectedToken

    # At the end lark points at the last token.
    start, found = len(source.text.rstrip()), ""
    if not isinstance(error, UnexpectedToken):
        start = error.pos_in_stream or 0
        found = _word_at(source.text, start)
    elif error.token.type != "$END":
        start, found = error.token.start_pos or 0, str(error.token)
    span = source.span(start, start + max(1, len(found)))
    what = f"'{found}' cannot stand here" if found else "the text ends too early"
    expected = error.accepts if isinstance(error, UnexpectedToken) else set[str]()
    why = f"expected {_expected_words(expected)}" if expected else ""
    # Only the name of a declaration asks for nothing but a parenthesis.
    declared = expected == {"LPAR"}
    fix = "name() = ... where it has no arguments" if declared else _habit_at(source.text, start)
    return TextError(what, why=why, fix=fix, span=span)


def _word_at(text: str, start: int) -> str:
    """The run of letters and digits at `start`, or the one character there."""
    end = start
    while end < len(text) and (text[end].isalnum() or text[end] == "_"):
        end += 1
    return text[start : max(end, start + 1)]


def _expected_words(terminals: set[str]) -> str:
    words = []
    if "NUMBER" in terminals:
        words.append("a value (a number, a name, a call or a parenthesis)")
    elif "NAME" in terminals:
        words.append("a name")
    if "PLUS" in terminals:
        words.append("an operator")
    # Before a value '(' is said already; after one it would call, which is said by no operator.
    known = [] if "NUMBER" in terminals or "PLUS" in terminals else ["LPAR", "LSQB"]
    known += ["COMMA", "RPAR", "RSQB", "COLON", "EQUAL", "_ELSE", "$END"]
    words += [_PUNCTUATION[name] for name in known if name in terminals]
    return " or ".join(words)


def _habit_at(text: str, start: int) -> str:
    """What to write for a spelling of another language at or just before `start`."""
    word = _word_at(text, start)
    if word[:1].isdigit():
        return "an operator between a number and a name: 2 * kv"
    near = [text[start : start + 6], text[max(0, start - 1) : start + 1], text[start : start + 2]]
    candidates = [*near, word, *text[:start].split()[-1:]]
    return next((_HABITS[c] for c in candidates if c in _HABITS), "")
