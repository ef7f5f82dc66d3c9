"""Judges never contradict Python's own numbers, on any expression and any small box."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl.analysis.affine import LinearForms, without_quotients
from flexdsl.analysis.congruence import Residues
from flexdsl.analysis.domain import Interval, Truth
from flexdsl.analysis.truth import Judge
from flexdsl.analysis.values import Bindings, bind, specialise, substitute
from flexdsl.errors import CaptureError, TypeMismatchError
from flexdsl.ir import Capture, DType, Expr, Op, Type, apply, const, load, param, var
from support.expressions import VALUES, Undefined, build, trees, value_of

RANGES = st.fixed_dictionaries(
    {
        "b": st.tuples(st.integers(0, 2), st.integers(0, 1)),
        "h": st.tuples(st.integers(0, 7), st.integers(0, 1)),
        "q": st.tuples(st.integers(0, 40), st.integers(0, 4)),
        "kv": st.tuples(st.integers(0, 40), st.integers(0, 4)),
    }
)


def points_in(ranges: dict[str, tuple[int, int]]) -> list[dict[str, int]]:
    spans = [range(lo, lo + n + 1) for lo, n in ranges.values()]
    return [dict(zip(ranges, p, strict=True)) for p in itertools.product(*spans)]


def box_of(ranges: dict[str, tuple[int, int]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {k: (np.array([lo]), np.array([lo + n])) for k, (lo, n) in ranges.items()}


def judge_of(expr: Expr) -> Judge:
    return Judge(expr, bind(VALUES, expr))


def built(tree: tuple[object, ...]) -> Expr | None:
    """The expression without `score`, which a mask does not have; None where it has no value."""
    try:
        expr = substitute(build(tree), {var("score"): const(1.5)})
        return specialise(expr, bind(VALUES, expr))
    except TypeMismatchError:
        return None


@given(trees(Type.BOOL, depth=4), RANGES)
def test_truth_is_never_contradicted(
    tree: tuple[object, ...], ranges: dict[str, tuple[int, int]]
) -> None:
    expr = built(tree)
    if expr is None:
        return
    truth = judge_of(expr).truth(box_of(ranges))
    for point in points_in(ranges):
        try:
            value = value_of(tree, {**point, "score": 1.5})
        except Undefined:
            continue
        assert truth.possible if value else not truth.always, (expr, point, value)


def test_an_element_is_compared_with_a_number_that_may_be_anything():
    """Divided by zero, a number is unbounded: it has one lane for all boxes."""
    tree = (Op.GE, (Op.LOAD, "doc", (Op.CONST, 0)), (Op.FLOORDIV, (Op.CONST, 0), (Op.VAR, "b")))
    expr = built(tree)
    assert expr is not None
    truth = judge_of(expr).truth(box_of(dict.fromkeys(("b", "h", "q", "kv"), (0, 0))))
    assert truth.maybe.all()


@given(trees(Type.INDEX, depth=4), RANGES)
def test_ranges_are_never_left(
    tree: tuple[object, ...], ranges: dict[str, tuple[int, int]]
) -> None:
    expr = built(tree)
    if expr is None:
        return
    found = judge_of(expr).interval(box_of(ranges))
    forms = LinearForms()
    residue = Residues(forms).of(expr)
    for point in points_in(ranges):
        try:
            value = value_of(tree, {**point, "score": 1.5})
        except Undefined:
            continue
        assert found.lo <= value <= found.hi, (expr, point, value)
        gap = value - residue.remainder
        assert gap % residue.modulus == 0 if residue.modulus else gap == 0


@given(trees(Type.INDEX, depth=3), RANGES)
def test_linear_forms_keep_the_value(
    tree: tuple[object, ...], ranges: dict[str, tuple[int, int]]
) -> None:
    expr = built(tree)
    if expr is None:
        return
    forms = LinearForms()
    scaled, factor = without_quotients(forms.of(expr), forms)
    other = [forms.of(expr).to_expr(), scaled.to_expr()]
    for point in points_in(ranges)[:4]:
        try:
            expected = value_of(expr, point)
            assert [value_of(x, point) for x in other] == [expected, expected * factor]
        except Undefined:
            continue


Q, KV = var("q"), var("kv")
NOTHING = Bindings({}, {})


def truth_at(condition: Expr, q: tuple[int, int], kv: tuple[int, int], **arrays: object) -> str:
    box = {"q": (np.array([q[0]]), np.array([q[1]])), "kv": (np.array([kv[0]]), np.array([kv[1]]))}
    truth: Truth = Judge(condition, Bindings({}, arrays)).truth(box)
    return "always" if truth.always.all() else "maybe" if truth.possible.all() else "never"


def test_differences_keep_their_correlation() -> None:
    near = apply(Op.LT, apply(Op.SUB, apply(Op.ADD, Q, KV), KV), const(10))
    assert truth_at(near, (0, 9), (0, 10**6)) == "always"


def test_conditions_on_one_difference_are_met_together() -> None:
    """Each is possible in the box, both at once are not."""
    difference = apply(Op.SUB, Q, KV)
    backward = apply(Op.SUB, KV, Q)
    band = apply(Op.AND, apply(Op.GE, difference, const(5)), apply(Op.GT, backward, const(-5)))
    assert truth_at(band, (0, 100), (0, 100)) == "never"
    cover = apply(Op.OR, apply(Op.GE, Q, KV), apply(Op.GT, KV, Q))
    assert truth_at(cover, (0, 100), (0, 100)) == "always"


def test_congruence_decides_where_intervals_cannot() -> None:
    four_kv = apply(Op.MUL, KV, const(4))
    odd = apply(Op.ADD, apply(Op.MUL, Q, const(2)), const(1))
    assert truth_at(apply(Op.EQ, four_kv, odd), (0, 100), (0, 100)) == "never"
    assert truth_at(apply(Op.NE, apply(Op.MOD, four_kv, const(2)), const(1)), (0, 9), (0, 9)) == (
        "always"
    )


def test_quotients_cancel_against_what_they_divide() -> None:
    """16 * (q // 16) <= q, at every q."""
    chunk = apply(Op.MUL, apply(Op.FLOORDIV, Q, const(16)), const(16))
    assert truth_at(apply(Op.LE, chunk, Q), (0, 10**6), (0, 0)) == "always"
    following = apply(Op.FLOORDIV, apply(Op.ADD, Q, const(1)), const(16))
    step = apply(Op.LE, following, apply(Op.ADD, apply(Op.FLOORDIV, Q, const(16)), const(1)))
    assert truth_at(step, (0, 10**6), (0, 0)) == "always"


def test_equal_documents() -> None:
    doc = Capture("doc", DType.I64, 1)
    same = apply(Op.EQ, load(doc, Q), load(doc, KV))
    array = np.repeat([3, 5, 9], 10)
    assert truth_at(same, (0, 9), (2, 7), doc=array) == "always"
    assert truth_at(same, (0, 9), (10, 29), doc=array) == "never"
    assert truth_at(same, (0, 10), (10, 19), doc=array) == "maybe"


@pytest.mark.parametrize("value", [2**62, 2**63 - 1])
def test_a_huge_window_is_no_bound(value: int) -> None:
    assert truth_at(apply(Op.LT, apply(Op.SUB, Q, KV), const(value)), (0, 99), (0, 99)) == "always"


def test_a_missing_value_is_named() -> None:
    with pytest.raises(CaptureError, match="window has no value"):
        bind({}, apply(Op.LT, Q, param("window", Type.INDEX)))
    doc = load(Capture("doc", DType.I64, 1), Q)
    with pytest.raises(CaptureError, match="2 dimensions"):
        bind({"doc": np.zeros((2, 2))}, doc)


def test_intervals_join() -> None:
    a, b = Interval(np.array([1]), np.array([2]), 2), Interval(np.array([5]), np.array([9]), 9)
    joined = a.join(b)
    assert (joined.lo, joined.hi, joined.magnitude) == (1, 9, 9)
    assert NOTHING.all == {}
