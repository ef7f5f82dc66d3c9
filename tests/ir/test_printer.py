"""What is printed is Python: its own parser finds the same value, so parentheses are right."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flexdsl.errors import TypeMismatchError
from flexdsl.ir import OPS, Op, Type, apply, const, print_expr, var
from flexdsl.ir.scalar import SCALAR
from support.expressions import VALUES, Undefined, build, equal, points, trees, value_of

FUNCTIONS = {OPS[op].symbol: SCALAR[op] for op in OPS if OPS[op].symbol and not OPS[op].precedence}


class Clipped:
    """A captured array that reads the nearest element, as evaluators do."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __getitem__(self, index: int | tuple[int, ...]) -> Any:
        indices = index if isinstance(index, tuple) else (index,)
        clipped = [min(max(i, 0), n - 1) for i, n in zip(indices, self.array.shape, strict=True)]
        return self.array[tuple(clipped)].item()


NAMES: dict[str, Any] = {
    "inf": math.inf,
    "nan": math.nan,
    **FUNCTIONS,
    **{name: Clipped(v) if hasattr(v, "shape") else v for name, v in VALUES.items()},
}


@given(st.sampled_from(list(Type)).flatmap(trees), points)
def test_python_reads_the_text_with_the_same_value(tree, point):
    try:
        expected = value_of(tree, point)
        text = print_expr(build(tree))
    except (Undefined, TypeMismatchError):
        assume(False)
    assume("one[]" not in text)  # a tensor without dimensions, which Python spells otherwise
    assert equal(eval(text, {**NAMES, **point}), expected)


q, kv, h, score = (var(name) for name in ("q", "kv", "h", "score"))
x = SimpleNamespace(a=apply(Op.LT, q, kv), b=apply(Op.LT, kv, h), c=apply(Op.LT, h, q))


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (apply(Op.SUB, q, apply(Op.SUB, kv, h)), "q - (kv - h)"),
        (apply(Op.SUB, apply(Op.SUB, q, kv), h), "q - kv - h"),
        (apply(Op.MUL, const(5), apply(Op.MOD, q, const(2))), "5 * (q % 2)"),
        (apply(Op.MUL, apply(Op.NEG, q), kv), "-q * kv"),
        (apply(Op.NEG, apply(Op.MUL, q, kv)), "-(q * kv)"),
        (apply(Op.AND, x.a, apply(Op.OR, x.b, x.c)), "q < kv and (kv < h or h < q)"),
        (apply(Op.OR, x.a, apply(Op.OR, x.b, x.c)), "q < kv or (kv < h or h < q)"),
        (apply(Op.NOT, apply(Op.AND, x.a, x.b)), "not (q < kv and kv < h)"),
        (apply(Op.EQ, x.a, x.b), "(q < kv) == (kv < h)"),
        (apply(Op.EQ, x.a, apply(Op.NOT, apply(Op.OR, x.b, x.c))), None),
        (apply(Op.BITAND, apply(Op.BITOR, q, kv), h), "(q | kv) & h"),
        (apply(Op.SHL, apply(Op.ADD, q, kv), h), "q + kv << h"),
        (apply(Op.ADD, q, apply(Op.SHL, kv, h)), "q + (kv << h)"),
        (apply(Op.WHERE, x.a, q, kv), "q if q < kv else kv"),
        (apply(Op.ADD, apply(Op.WHERE, x.a, q, kv), h), "(q if q < kv else kv) + h"),
        (apply(Op.WHERE, x.a, apply(Op.WHERE, x.b, q, h), kv), None),
        (apply(Op.ADD, score, q), "score + q"),
        (apply(Op.ADD, score, apply(Op.TO_FLOAT, apply(Op.ADD, q, kv))), "score + (q + kv)"),
        (apply(Op.DIV, q, kv), "q / kv"),
        (apply(Op.SUB, score, const(-1.5)), "score - -1.5"),
        (apply(Op.TANH, apply(Op.MUL, score, const(1e-5))), "tanh(score * 1e-05)"),
    ],
)
def test_parentheses(expr, text):
    expected = {
        "not": "(q < kv) == (not (kv < h or h < q))",
        "if": "(q if kv < h else h) if q < kv else kv",
    }
    printed = print_expr(expr)
    assert printed == (text or expected["not" if "not" in printed else "if"])
