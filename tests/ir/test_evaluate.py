"""The numpy evaluator against Python's own numbers, one point at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given

from flexdsl.ir import Capture, DType, Op, apply, evaluate, load, var
from support.expressions import VALUES, any_tree, expected_of, points


@given(any_tree, points)
def test_evaluator_agrees_with_python(tree, point):
    expr, expected = expected_of(tree, point)
    assume(expected == expected)
    found = evaluate(expr, point, VALUES)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_variables_broadcast():
    expr = apply(Op.GE, var("q"), var("kv"))
    q, kv = np.arange(4)[:, None], np.arange(5)[None, :]
    np.testing.assert_array_equal(evaluate(expr, {"q": q, "kv": kv}, {}), q >= kv)


def test_a_load_outside_reads_the_nearest_element():
    expr = load(Capture("t", DType.I32, 1), apply(Op.SUB, var("q"), var("kv")))
    values = {"t": np.array([10, 20, 30])}
    variables = {"q": np.array([0, 1, 9]), "kv": np.array([5, 0, 0])}
    assert evaluate(expr, variables, values).tolist() == [10, 20, 30]


def test_float_arithmetic_has_the_type_asked_for():
    expr = apply(Op.ADD, var("score"), apply(Op.DIV, var("q"), var("kv")))
    found = evaluate(expr, {"score": 0.0, "q": 1, "kv": 3}, {}, np.float32)
    assert found.dtype == np.float32 and found == np.float32(1) / np.float32(3)
