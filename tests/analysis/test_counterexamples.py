"""Counterexamples against Python's own numbers, and proofs against counterexamples."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flexdsl.analysis.counterexamples import Counterexamples
from flexdsl.analysis.domain import Interval, Truth
from flexdsl.analysis.steps import plain_ranges
from flexdsl.analysis.truth import Judge
from flexdsl.analysis.values import Arrays, Bindings, bind
from flexdsl.ir import Capture, DType, Expr, Op, Type, apply, const, load, param, var
from support.expressions import VALUES, Undefined, trees, value_of
from tests.analysis.test_truth import RANGES, box_of, built, points_in

Q, H = var("q"), var("h")
SINKS, WINDOWS = (load(Capture(name, DType.I32, 1), H) for name in ("sinks", "windows"))
WIDTH = param("width", Type.INDEX)


def points_of(ranges: dict[str, tuple[int, int]]) -> Counterexamples:
    return Counterexamples(((name, lo, lo + n) for name, (lo, n) in ranges.items()), (), {})


@given(trees(Type.BOOL, depth=4), RANGES)
def test_what_is_seen_to_be_false_is_false_somewhere(tree, ranges):
    expr = built(tree)
    assume(expr is not None and not expr.loads)
    if not points_of(ranges).has(expr):
        return
    try:
        values = [value_of(tree, {**point, "score": 1.5}) for point in points_in(ranges)]
    except Undefined:
        return  # where there is no value any is as good
    assert not all(values)


@given(trees(Type.BOOL, depth=4), RANGES)
def test_what_is_proven_whatever_loads_give_has_no_counterexample(tree, ranges):
    expr = built(tree)
    assume(expr is not None)
    truth = Judge(expr, Bindings({}, Arrays({}))).truth(box_of(ranges))
    if truth.always.all():
        assert not points_of(ranges).has(expr)


@given(st.one_of(trees(Type.INDEX, depth=4), trees(Type.BOOL, depth=3)), RANGES)
def test_plain_ranges_are_never_left(tree, ranges):
    expr = built(tree)
    assume(expr is not None)
    found = plain_ranges((expr,), bind(VALUES, expr), box_of(ranges))[expr]
    for point in points_in(ranges):
        try:
            value = value_of(tree, {**point, "score": 1.5})
        except Undefined:
            continue
        if isinstance(found, Truth):
            assert found.possible if value else not found.always
        else:
            assert isinstance(found, Interval) and found.lo <= value <= found.hi


def lower(a: Expr | int, b: Expr | int) -> Expr:
    return apply(Op.LT, *(const(x) if isinstance(x, int) else x for x in (a, b)))


@pytest.mark.parametrize(
    "condition",
    [
        lower(Q, 999),
        lower(0, Q),
        lower(SINKS, WINDOWS),
        lower(WINDOWS, SINKS),
        lower(SINKS, 0),
        lower(0, SINKS),
        apply(Op.NE, SINKS, WINDOWS),
        lower(WIDTH, 7),
        lower(7, WIDTH),
        lower(Q, apply(Op.MAX, WINDOWS, SINKS)),
    ],
    ids=repr,
)
def test_ends_of_ranges_and_numbers_of_either_sign_are_seen(condition):
    found = Counterexamples([("q", 0, 999), ("h", 0, 3)], [], {"width": 7})
    assert found.has(condition) and not found.has(apply(Op.OR, condition, const(True)))


@pytest.mark.parametrize(
    "condition", [lower(Q, 1000), apply(Op.EQ, WIDTH, const(7)), apply(Op.LE, SINKS, SINKS)]
)
def test_what_is_true_everywhere_has_none(condition):
    assert not Counterexamples([("q", 0, 999), ("h", 0, 3)], [], {"width": 7}).has(condition)


def test_floats_which_round_say_nothing():
    condition = apply(Op.LT, apply(Op.TO_FLOAT, Q), const(0.0))
    assert not Counterexamples([("q", 0, 9)], [], {}).has(condition)


def test_a_long_chain_is_no_deep_call():
    condition = const(True)
    for width in range(3000):
        condition = apply(Op.AND, lower(Q, 1000 + width), condition)
    found = Counterexamples([("q", 0, 999)], [], {})
    assert not found.has(condition)
    assert found.has(apply(Op.AND, condition, lower(Q, 999)))
