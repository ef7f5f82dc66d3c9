"""The text form: what is printed reads back to the same node, and mistakes get a caret."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lark import Token, Tree

from flexdsl.errors import FlexdslError, ResultError, TextError, TypeMismatchError
from flexdsl.frontend.syntax import Source, parse_tree
from flexdsl.frontend.text import CONSTANTS, FUNCTIONS, INFIX, PREFIX, parse_program
from flexdsl.ir import (
    OPS,
    Capture,
    DType,
    Expr,
    Kind,
    Op,
    Program,
    Type,
    apply,
    const,
    load,
    param,
    print_expr,
    var,
    walk,
)
from support.expressions import CAPTURES, TYPES, VALUES, expressions

q, kv, h, score = (var(name) for name in ("q", "kv", "h", "score"))

DECLARATIONS = ", ".join(
    [
        f"{name}: {'int' if TYPES[name] is Type.INDEX else 'float'} = 1"
        for name in VALUES.keys() & TYPES
    ]
    + [f"{c.name}: {c.dtype.value}[{', '.join(['_'] * c.rank)}]" for c in CAPTURES.values()]
)


def parse_in_context(expr: Expr) -> Expr:
    """The printed text of `expr` read back, whatever its type and names."""
    wrapped = {
        Type.BOOL: "inf if ({}) else score",
        Type.INDEX: "float({})",
        Type.FLOAT: "{}",
    }[expr.type].format(print_expr(expr))
    return parse_program(f"score f({DECLARATIONS}) = {wrapped}").expr


@given(st.sampled_from(list(Type)).flatmap(expressions))
def test_printed_text_reads_back_to_the_same_node(expr):
    expected = {
        Type.BOOL: lambda: apply(Op.WHERE, expr, const(float("inf")), score),
        Type.INDEX: lambda: apply(Op.TO_FLOAT, expr),
        Type.FLOAT: lambda: expr,
    }[expr.type]()
    assert parse_in_context(expr) is expected


masks = expressions(Type.BOOL).filter(lambda e: "score" not in e.variables)


@given(masks | expressions(Type.FLOAT), st.sampled_from(["f", "mask", "score_2", "größe"]))
def test_whole_programs_read_back(expr, name):
    kind = Kind.MASK if expr.type is Type.BOOL else Kind.SCORE
    program = Program(kind, name, expr, VALUES)
    again = parse_program(program.text)
    assert (again.kind, again.name) == (kind, name)
    assert again.expr is program.expr
    assert again.values == {n: v for n, v in VALUES.items() if n in again.values}
    assert set(again.spans) >= {n for n in walk(again.expr) if n.op is Op.PARAM}


@pytest.mark.parametrize(
    ("text", "kind", "expr"),
    [
        ("q >= kv", Kind.MASK, apply(Op.GE, q, kv)),
        ("score + q", Kind.SCORE, apply(Op.ADD, score, q)),
        ("1.0 * kv", Kind.SCORE, apply(Op.MUL, const(1.0), kv)),
        (
            "0 <= q - kv < 8",
            Kind.MASK,
            apply(
                Op.AND,
                apply(Op.LE, const(0), apply(Op.SUB, q, kv)),
                apply(Op.LT, apply(Op.SUB, q, kv), const(8)),
            ),
        ),
        ("(q >= kv) & (h < q)", Kind.MASK, apply(Op.AND, apply(Op.GE, q, kv), apply(Op.LT, h, q))),
        (
            "where(q >= kv, score, -inf)",
            Kind.SCORE,
            apply(Op.WHERE, apply(Op.GE, q, kv), score, const(float("-inf"))),
        ),
        ("q > -9223372036854775808", Kind.MASK, apply(Op.GT, q, const(-(2**63)))),
        ("q > 1_000", Kind.MASK, apply(Op.GT, q, const(1000))),
        ("score * float(.5)", Kind.SCORE, apply(Op.MUL, score, const(0.5))),
        ("q >=\n  kv", Kind.MASK, apply(Op.GE, q, kv)),
    ],
)
def test_bare_expressions(text, kind, expr):
    program = parse_program(text, "named")
    assert (program.kind, program.name) == (kind, "named")
    assert program.expr is expr
    assert program.source == " ".join(text.split())


def test_declarations_give_types_values_and_ranks():
    text = "score alibi(slopes: f32[h], at: i32[N, 4, _], one: i64[], w: int = -3, m: float = 2) = "
    program = parse_program(text + "score * m + slopes[h] * at[q, kv, w] + one[]")
    assert program.values == {"w": -3, "m": 2.0}
    assert isinstance(program.values["m"], float)
    captures = {n.attribute for n in walk(program.expr) if n.op is Op.LOAD}
    assert captures == {
        Capture("slopes", DType.F32, 1),
        Capture("at", DType.I32, 3),
        Capture("one", DType.I64, 0),
    }


def test_a_parameter_may_be_a_divisor():
    program = parse_program("mask every(stride: int = 4) = (q - kv) % stride == 0")
    stride = param("stride", Type.INDEX)
    assert program.expr is apply(Op.EQ, apply(Op.MOD, apply(Op.SUB, q, kv), stride), const(0))


def test_names_that_only_look_taken():
    text = (
        "mask f(mask: int = 1, where: int = 2, q_first: int = 3) = q - kv < mask + where + q_first"
    )
    assert parse_program(text).text == text


def test_spans_point_into_the_text():
    program = parse_program("mask f(doc: i32[N]) =\n  doc[q] == doc[kv]")
    span = program.spans[load(Capture("doc", DType.I32, 1), kv)]
    assert (span.line, span.column, span.end_column) == (2, 12, 19)
    assert span.text == "  doc[q] == doc[kv]"


def test_a_text_of_many_terms_needs_no_recursion():
    text = " or ".join(f"q - kv == {n}" for n in range(2000))
    assert len(list(walk(parse_program(text).expr))) > 4000


# Syntax: the text, the caret's column (from 0) and width, words of the message.
SYNTAX = [
    ("", None, "the text is empty"),
    ("q >= ", (4, 1), "ends too early.*expected a value"),
    ("(q >= kv", (8, 1), r"expected '\)'"),
    ("q >= kv)", (7, 1), r"'\)' cannot stand here"),
    ("q kv", (2, 2), "expected an operator"),
    ("q = kv", (2, 1), "write instead: =="),
    ("q && kv", (3, 1), "write instead: and"),
    ("q > 1 || kv > 1", (7, 1), "write instead: or"),
    ("!q", (0, 1), "write instead: not"),
    ("q ** 2 > 1", (3, 1), r"x \* x"),
    ("q > kv ? 1 : 0", (7, 1), "a if condition else b"),
    ("torch.where(q > 1, 1, 2)", (5, 1), "plain function name"),
    ("2kv > 1", (0, 3), r"2 \* kv"),
    ("kv in 3", (3, 2), "one comparison for each value"),
    ("lambda q, kv: q >= kv", (7, 1), "the expression alone"),
    ("q == not kv", (5, 3), r"parentheses"),
    ("score if q > kv", (15, 1), "expected 'else'"),
    ("q >\n\t  * kv", (3, 1), "cannot stand here"),
    ("mask f = q > kv", (7, 1), r"name\(\) = "),
    ("mask f(w: int) = q > w", (13, 1), "expected '\\[' or '='"),
    ("mask f(t: i32[4) = t[q] > 1", (15, 1), r"expected ',' or '\]'"),
    ("mask f() q > kv", (9, 1), "expected '='"),
]  # fmt: skip

# Names and types.
MEANING = [
    ("windw > q", (0, 5), TextError, "nothing is named 'windw'.*known here are b, h, q, kv"),
    ("mask f(window: int = 3) = q > windw", (30, 5), TextError, "write instead: window"),
    ("mask f() = score > 1.0", (11, 5), TextError, r"score name\("),
    ("softmax(score)", (0, 7), TextError, "is not a function.*there are"),
    ("min(q) > kv", (0, 6), TextError, "'min' takes two arguments, not 1"),
    ("exp > 1.0", (0, 3), TextError, r"is a function.*exp\("),
    ("mask f(q: int = 1) = q > 1", (7, 1), TextError, "has a meaning already"),
    ("mask f(w: int = 1, w: int = 2) = q > w", (19, 1), TextError, "has a meaning already"),
    ("mask f(w: int = 1.5) = q > w", (16, 3), TextError, "'1.5' is no int"),
    ("mask f(w: int = True) = q > w", (16, 4), TextError, "'True' is no int"),
    ("mask f(w: int = many) = q > w", (16, 4), TextError, "'many' is no number"),
    ("mask f(w: number = 1) = q > w", (10, 6), TextError, "there are int, float"),
    ("mask f(t: i3[4]) = t[q] > 1", (10, 2), TextError, "there are bool, u8"),
    ("mask f(t: i32[4]) = t > 1", (20, 1), TextError, r"t\[i\]"),
    ("mask f(w: int = 1) = w[q] > 1", (21, 1), TextError, "a number, not a tensor"),
    ("t[q] > 1", (0, 1), TextError, "nothing is named 't'"),
    ("mask f(t: i32[4]) = t[q, kv] > 1", (20, 8), TypeMismatchError, "2 indices are given"),
    ("mask f(t: f32[4]) = q > 0 and t[t[q]] > 1", (30, 7), TypeMismatchError, "not an integer"),
    ("q and kv > 1", (0, 12), TypeMismatchError, "'and' does not take an index"),
    ("(q >= kv) & b % 2 == 0", (0, 17), TypeMismatchError, "binds tighter than a comparison"),
    ("99999999999999999999 > q", (0, 20), TypeMismatchError, "does not fit in 64 bits"),
    ("mask f(w: int = 99999999999999999999) = q > w", (16, 20), TypeMismatchError, "64 bits"),
    ("q - kv", (0, 6), ResultError, "a score is a float"),
    ("score > 1.0", (0, 11), ResultError, "a mask cannot use the score"),
    ("mask f() = q - kv", (11, 6), ResultError, "a mask is a bool"),
    ("score f() = q > kv", (12, 6), ResultError, "a score is a float"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place", "error", "message"),
    [(text, place, TextError, message) for text, place, message in SYNTAX] + MEANING,
)
def test_mistakes(text, place, error, message):
    with pytest.raises(FlexdslError) as caught:
        parse_program(text)
    assert type(caught.value) is error
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)
    if place is not None:
        span = caught.value.span
        assert (span.column, max(1, span.end_column - span.column)) == place


@given(st.text(alphabet="qkvh01 .+-*/<>=!()[],&|andortisfe:score\n", max_size=30))
def test_no_text_breaks_the_parser(text):
    try:
        parse_program(text)
    except FlexdslError as error:
        assert str(error)


def _shape(tree: Tree | Token) -> object:
    if isinstance(tree, Token):
        return str(tree)
    return [str(tree.data), *map(_shape, tree.children)]


def test_every_pair_of_operators_binds_as_the_table_says():
    binary = [s for s in INFIX if OPS[INFIX[s]].precedence]
    for loose in binary:
        for tight in binary:
            a, b = OPS[INFIX[loose]].precedence, OPS[INFIX[tight]].precedence
            if a < b:
                for bare, explicit in (
                    (f"a {loose} b {tight} c", f"a {loose} (b {tight} c)"),
                    (f"a {tight} b {loose} c", f"(a {tight} b) {loose} c"),
                ):
                    assert _shape(parse_tree(Source(bare))) == _shape(parse_tree(Source(explicit)))
            elif INFIX[loose] not in (Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE) and a == b:
                bare, explicit = f"a {loose} b {tight} c", f"(a {loose} b) {tight} c"
                assert _shape(parse_tree(Source(bare))) == _shape(parse_tree(Source(explicit)))


def test_prefix_operators_bind_as_the_table_says():
    for sign, op in PREFIX.items():
        for symbol, infix in INFIX.items():
            tighter = OPS[infix].precedence > OPS[op].precedence
            explicit = f"{sign} (a {symbol} b)" if tighter else f"({sign} a) {symbol} b"
            bare = f"{sign} a {symbol} b"
            assert _shape(parse_tree(Source(bare))) == _shape(parse_tree(Source(explicit)))


def test_every_op_can_be_spelled():
    spelled = {*FUNCTIONS.values(), *INFIX.values(), *PREFIX.values()}
    assert spelled == set(Op) - {Op.CONST, Op.VAR, Op.PARAM, Op.LOAD}
    assert set(CONSTANTS) == {"True", "False", "inf", "nan"}
