"""Comparisons that Python reads otherwise than they look. Source is parsed, and nothing is run.

`q >= kv & kv < 5` is the chain `q >= (kv & kv) < 5`; where every part is an integer, no type is
wrong with it. What mixes a bool into it is an error, FX101. Only lines are read from which a part
of the program came, in helpers too.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Iterator
from itertools import pairwise

from flexdsl.errors import Span
from flexdsl.ir import Program
from flexdsl.lints.finding import Finding

_BITWISE = {ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^"}
_EQUALITY = (ast.Eq, ast.NotEq)
_DECLARED = re.compile(r"\s*(mask|score)\b[^()]*\(.*?\)\s*=(?!=)", re.DOTALL)


def find_misread(program: Program) -> Iterator[Finding]:
    """Comparisons with a bitwise operator inside, and chains of `==` with `<` and the like."""
    seen = set()
    lines: dict[str, set[int]] = {}
    for span in program.spans.values():
        if span.text is None:
            lines.setdefault(span.file, set()).add(span.line)
        elif span.text not in seen:
            seen.add(span.text)
            yield from _in_text(span)
    for file, numbers in lines.items():
        yield from _in_file(file, numbers)


def _in_file(file: str, numbers: set[int]) -> Iterator[Finding]:
    source = linecache.getlines(file)
    try:
        tree = ast.parse("".join(source))
    except SyntaxError:  # a notebook's magic, or no Python at all
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and node.lineno in numbers:
            yield from _in_comparison(node, source[node.lineno - 1], file, node.lineno, 0)


def _in_text(span: Span) -> Iterator[Finding]:
    text = span.text or ""
    declared = _DECLARED.match(text)
    start = declared.end() if declared else 0
    lead = len(text[start:]) - len(text[start:].lstrip())
    try:
        tree = ast.parse(text[start + lead :], mode="eval")
    except SyntaxError:  # one line of several
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            shift = start + lead
            yield from _in_comparison(node, text, span.file, span.line, shift, text)


def _in_comparison(
    node: ast.Compare, line: str, file: str, number: int, shift: int, text: str | None = None
) -> Iterator[Finding]:
    one_line = node.end_lineno == node.lineno
    first, last = node.col_offset, node.end_col_offset if one_line else None
    encoded = line.encode()
    column = len(encoded[:first].decode()) + shift if text is None else first + shift
    end = len(line) if last is None else len(encoded[:last].decode()) + shift
    span = Span(file, number, column, end, text)
    # Between two comparisons: at an end, `x & (x - 1) == 0` means in Python what it looks like.
    for operand in node.comparators[:-1]:
        if isinstance(operand, ast.BinOp) and type(operand.op) in _BITWISE:
            if _is_parenthesised(operand, line, shift if text is not None else 0):
                continue
            sign = _BITWISE[type(operand.op)]
            yield Finding(
                "misread",
                f"`{ast.unparse(node)}` compares with `{ast.unparse(operand)}`",
                f"in Python `{sign}` binds tighter than a comparison",
                f"parentheses around the comparisons beside `{sign}`, or `and`, `or`",
                span,
            )
    kinds = [isinstance(op, _EQUALITY) for op in node.ops]
    if any(a != b for a, b in pairwise(kinds)):
        yield Finding(
            "misread",
            f"`{ast.unparse(node)}` is a chain of comparisons",
            f"it means `{_spelled_out(node)}`",
            "parentheses around the first comparison, or that with `and`",
            span,
        )


def _spelled_out(node: ast.Compare) -> str:
    operands = [node.left, *node.comparators]
    links = zip(operands, node.ops, operands[1:], strict=False)
    return " and ".join(ast.unparse(ast.Compare(a, [op], [b])) for a, op, b in links)


def _is_parenthesised(node: ast.expr, line: str, shift: int) -> bool:
    """Does a parenthesis open right before the operand, and close right after it?"""
    encoded = line.encode()
    before = encoded[: node.col_offset + shift].rstrip()
    after = encoded[(node.end_col_offset or 0) + shift :].lstrip()
    return before.endswith(b"(") and after.startswith(b")")
