"""The torch evaluator against Python's own numbers, its table against the table of ops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given

from flexdsl.ir import Capture, DType, Op, Type, apply, const, load, var
from flexdsl.ir.ops import LEAVES
from flexdsl.runtime.evaluate import TORCH, evaluate
from support.expressions import VALUES, any_tree, expected_of, points

TENSORS = {n: torch.as_tensor(v) if hasattr(v, "shape") else v for n, v in VALUES.items()}


def test_every_op_has_a_meaning():
    conversions = {Op.LOAD, Op.TO_FLOAT, Op.TO_INDEX}
    assert set(TORCH) == set(Op) - LEAVES - conversions


@given(any_tree, points)
def test_evaluator_agrees_with_python(tree, point):
    expr, expected = expected_of(tree, point)
    assume(expected == expected)
    variables = {
        n: torch.tensor(x, dtype=torch.float64 if n == "score" else torch.int64)
        for n, x in point.items()
    }
    found = evaluate(expr, variables, TENSORS, torch.float64).item()
    assert type(found) is {Type.BOOL: bool, Type.INDEX: int, Type.FLOAT: float}[expr.type]
    assert found == expected or math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)


def test_variables_broadcast():
    expr = apply(Op.GE, var("q"), var("kv"))
    q, kv = torch.arange(4)[:, None], torch.arange(5)[None, :]
    assert torch.equal(evaluate(expr, {"q": q, "kv": kv}, {}), q >= kv)


@pytest.mark.parametrize("a", [-7, -1, 0, 5])
@pytest.mark.parametrize("b", [-3, 2])
def test_quotients_round_down(a, b):
    variables = {"q": torch.tensor(a), "kv": torch.tensor(b)}
    for op, expected in ((Op.FLOORDIV, a // b), (Op.MOD, a % b)):
        assert evaluate(apply(op, var("q"), var("kv")), variables, {}).item() == expected


def test_a_divisor_of_zero_gives_zero():
    variables = {"q": torch.tensor([7, 8]), "kv": torch.tensor([0, 3])}
    assert evaluate(apply(Op.MOD, var("q"), var("kv")), variables, {}).tolist() == [0, 2]
    assert evaluate(apply(Op.FLOORDIV, var("q"), var("kv")), variables, {}).tolist() == [0, 2]


def test_a_load_outside_reads_the_nearest_element():
    expr = load(Capture("t", DType.I32, 1), apply(Op.SUB, var("q"), var("kv")))
    variables = {"q": torch.tensor([0, 1, 9]), "kv": torch.tensor([5, 0, 0])}
    assert evaluate(expr, variables, {"t": torch.tensor([10, 20, 30])}).tolist() == [10, 20, 30]


def test_autograd_runs_through_score_and_captures():
    bias = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    score = torch.tensor([0.5, -1.0, 0.25, 4.0], dtype=torch.float64, requires_grad=True)
    loaded = load(Capture("bias", DType.F64, 1), var("kv"))
    expr = apply(Op.TANH, apply(Op.MUL, var("score"), loaded))
    kv = torch.tensor([0, 2, 2, 1])

    def function(score: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return evaluate(expr, {"score": score, "kv": kv}, {"bias": bias}, torch.float64)

    assert torch.autograd.gradcheck(function, (score, bias))


def test_float_arithmetic_has_the_type_asked_for():
    expr = apply(Op.ADD, apply(Op.DIV, var("q"), const(3)), const(0.5))
    assert evaluate(expr, {"q": torch.tensor(1)}, {}).dtype is torch.float32
    assert evaluate(expr, {"q": torch.tensor(1)}, {}, torch.float64).dtype is torch.float64
