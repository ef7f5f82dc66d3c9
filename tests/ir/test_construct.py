"""Smart constructors: one node for equal expressions, types checked, no value changed."""

from __future__ import annotations

import copy
import gc
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.errors import InternalError, TypeMismatchError, UnsupportedError
from flexdsl.ir import Capture, DType, Op, Type, apply, const, construct, load, param, var, verify
from flexdsl.ir.expr import _NODES, Expr, intern
from support.expressions import equal, expected_of, expressions, points, trees, value_of

any_type = st.sampled_from(list(Type))
q, kv, score = var("q"), var("kv"), var("score")


@given(any_type.flatmap(expressions))
def test_equal_expressions_are_one_node(expr):
    assert intern(expr.op, expr.args, expr.attribute, expr.type) is expr
    assert pickle.loads(pickle.dumps(expr)) is expr
    assert copy.deepcopy(expr) is expr


def test_constants_of_different_types_or_signs_are_different_nodes():
    different = [const(v) for v in (0, False, 0.0, -0.0, 1, True, 1.0, float("nan"))]
    assert len(set(different)) == len(different)
    assert const(float("nan")) is const(float("nan"))


FIRST = 123 * 10**9
OURS = range(FIRST, FIRST + 10**6)  # numbers that no other test has


def nodes_here() -> int:
    """How many nodes have such a number in them: those of other tests may go at any time."""
    gc.collect()
    return sum(any(is_ours(x) for x in (n, *n.args)) for n in list(_NODES.values()))


def is_ours(node: Expr) -> bool:
    return node.op is Op.CONST and node.type is Type.INDEX and node.attribute in OURS


def test_nodes_are_forgotten_but_for_the_most_recent():
    assert nodes_here() == 0
    node = apply(Op.ADD, q, const(FIRST))
    assert nodes_here() == 2 and apply(Op.ADD, q, const(FIRST)) is node
    del node
    for number in range(construct.REMEMBERED):
        apply(Op.ADD, kv, const(FIRST + 1 + number))
    assert nodes_here() == 2 * construct.REMEMBERED
    construct._apply.cache_clear()
    assert nodes_here() == 0


@given(any_type.flatmap(trees), points)
def test_simplification_changes_no_value(tree, point):
    expr, expected = expected_of(tree, point)
    assert equal(value_of(expr, point), expected)


@given(any_type.flatmap(expressions))
def test_building_again_from_the_operands_gives_the_same_node(expr):
    if expr.args and expr.op is not Op.LOAD:
        assert apply(expr.op, *expr.args) is expr


@given(any_type.flatmap(expressions))
def test_what_the_constructors_make_is_well_formed(expr):
    verify(expr)


@pytest.mark.parametrize(
    "node",
    [
        (Op.AND, (q, kv), None, Type.BOOL),
        (Op.ADD, (q, score), None, Type.FLOAT),
        (Op.ADD, (q, kv), None, Type.FLOAT),
        (Op.NOT, (), None, Type.BOOL),
        (Op.CONST, (), 1, Type.FLOAT),
        (Op.VAR, (), "nobody", Type.INDEX),
        (Op.PARAM, (), "flag", Type.BOOL),
        (Op.WHERE, (q, q, kv), None, Type.INDEX),
        (Op.LOAD, (q, kv), Capture("t", DType.I32, 1), Type.INDEX),
        (Op.LOAD, (q,), Capture("t", DType.F32, 1), Type.INDEX),
    ],
)
def test_the_verifier_finds_an_ill_formed_node(node):
    bad = intern(*node)
    with pytest.raises(InternalError):
        verify(bad)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (Op.AND, (q, kv)),
        (Op.ADD, (q, const(True))),
        (Op.MOD, (score, q)),
        (Op.EXP, (const(True),)),
        (Op.WHERE, (q, q, kv)),
        (Op.EQ, (q, const(True))),
        (Op.DIV, (const(1), const(0))),
        (Op.MUL, (const(2**62), const(4))),
    ],
)
def test_operands_of_a_wrong_type_or_value_are_an_error(op, args):
    with pytest.raises(TypeMismatchError):
        apply(op, *args)


def test_a_load_takes_one_integer_for_each_dimension():
    table = Capture("table", DType.F32, 2)
    with pytest.raises(TypeMismatchError, match="2 dimensions, but 1 indices"):
        load(table, q)
    with pytest.raises(TypeMismatchError, match="not an integer"):
        load(table, q, score)


def test_an_expression_has_no_truth_value():
    with pytest.raises(UnsupportedError):
        bool(apply(Op.GE, q, param("window", Type.INDEX)))


@pytest.mark.parametrize("op", [Op.FLOORDIV, Op.MOD])
def test_a_constant_divisor_of_zero(op):
    with pytest.raises(TypeMismatchError, match="zero"):
        apply(op, var("q"), const(0))


@pytest.mark.parametrize("amount", [-1, 64, 7 << 40])
def test_a_shift_beyond_the_integer(amount):
    with pytest.raises(TypeMismatchError, match="0 to 63"):
        apply(Op.SHL, const(7), const(amount))


def test_sigmoid_keeps_its_precision():
    folded = apply(Op.SIGMOID, const(-40.0)).attribute
    assert folded == pytest.approx(math.exp(-40.0), rel=1e-12)


CHOICES = [
    # What a traced function's `and` and `or` leave: one part is in both branches.
    ("q > 1 or kv > 2 if b > 0 else kv > 2", "b > 0 and q > 1 or kv > 2"),
    ("q > 1 and kv > 2 if b > 0 else kv > 2", "(q > 1 or not b > 0) and kv > 2"),
    ("kv > 2 if b > 0 else q > 1 or kv > 2", "not b > 0 and q > 1 or kv > 2"),
    ("kv > 2 if b > 0 else q > 1 and kv > 2", "(b > 0 or q > 1) and kv > 2"),
    (
        "(q > 1 or h > 0) and kv > 2 if b > 0 else h > 0 and kv > 2",
        "(b > 0 and q > 1 or h > 0) and kv > 2",
    ),
]


@pytest.mark.parametrize(("text", "simpler"), CHOICES)
def test_choices_between_conditions_that_share_a_part(text, simpler):
    found, expected = fx.parse(text), fx.parse(simpler)
    for n in range(16):
        pair = [n & 1, n >> 1 & 1, (n >> 2 & 1) * 3, (n >> 3 & 1) * 3]
        assert found(*pair) == expected(*pair)
    assert " if " not in found.text and len(found.text) <= len(expected.text)
