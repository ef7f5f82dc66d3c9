"""Ranges and truths as sources of Triton: what a planning kernel reckons with.

Conditions that are known while a kernel is written are folded here, so that it has no constants in
its logic. What the ops of a mask do to them is in `intervals.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.ir import Op


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers in [low, high], by the source of both; an index is at most `bound` in magnitude."""

    low: str
    high: str
    bound: int = 0


@dataclass(frozen=True, slots=True)
class Truth:
    """Sources of two bools: is a condition true everywhere, and somewhere?"""

    always: str
    possible: str

    def negated(self) -> Truth:
        """The truth of the negation."""
        return Truth(not_text(self.possible), not_text(self.always))

    def both(self, other: Truth) -> Truth:
        """The truth of the conjunction."""
        return Truth(and_text(self.always, other.always), and_text(self.possible, other.possible))

    def either(self, other: Truth) -> Truth:
        """The truth of the disjunction."""
        return Truth(or_text(self.always, other.always), or_text(self.possible, other.possible))


MAYBE = Truth("False", "True")


def not_text(a: str) -> str:
    """The source of `not a`; a is a name, a literal, or in parentheses."""
    return {"True": "False", "False": "True"}.get(a) or (a[1:] if _is_negation(a) else f"~{a}")


def _is_negation(a: str) -> bool:
    return a[0] == "~" and a[1:].isidentifier()


def and_text(a: str, b: str) -> str:
    """The source of `a and b`."""
    if "False" in (a, b):
        return "False"
    return b if a == "True" else a if b == "True" else f"({a} & {b})"


def or_text(a: str, b: str) -> str:
    """The source of `a or b`."""
    if "True" in (a, b):
        return "True"
    return b if a == "False" else a if b == "False" else f"({a} | {b})"


def term(coefficient: int, text: str) -> str:
    """A term of a sum, with its sign."""
    sign, size = " - " if coefficient < 0 else " + ", abs(coefficient)
    if text == "1":
        return f"{sign}{size}"
    return f"{sign}{text}" if size == 1 else f"{sign}{size} * {text}"


def compared(op: Op, a: Range, b: Range) -> Truth:
    """The truth of a comparison of two numbers."""
    match op:
        case Op.LT:
            return Truth(f"({a.high} < {b.low})", f"({a.low} < {b.high})")
        case Op.LE:
            return Truth(f"({a.high} <= {b.low})", f"({a.low} <= {b.high})")
        case Op.GT:
            return compared(Op.LT, b, a)
        case Op.GE:
            return compared(Op.LE, b, a)
        case Op.NE:
            return compared(Op.EQ, a, b).negated()
    point = f"(({a.low} == {b.high}) & ({a.high} == {b.low}))"
    return Truth(point, f"(({a.low} <= {b.high}) & ({b.low} <= {a.high}))")


def where_text(condition: str, a: str, b: str) -> str:
    """The source of a choice."""
    if condition in ("True", "False"):
        return a if condition == "True" else b
    return f"tl.where({condition}, {a}, {b})"


def row_text(leading: list[str], lengths: list[str]) -> str:
    """The number of a row in the order of elements."""
    row = "0"
    for index, length in zip(leading, lengths, strict=False):
        row = index if row == "0" else f"({row}) * {length} + {index}"
    return row


def nested(function: str, values: list[str]) -> str:
    """The source of a function of two numbers applied to all of several."""
    text = values[0]
    for value in values[1:]:
        text = f"{function}({text}, {value})"
    return text
