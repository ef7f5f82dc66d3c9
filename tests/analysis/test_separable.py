"""Terms of low rank: found exactly, split into the same value, and used only where that is safe."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis.separable import find_factors, separated
from flexdsl.analysis.values import bind
from flexdsl.ir import Op, Type, apply, const, evaluate, var, walk

POINTS = np.random.default_rng(0).normal(size=(60, 3))
SLOPES = np.array([0.5, 0.2, 0.1, 0.03])
ORIGIN = var("q_first")

# The rank of the largest term, and is it used?
RANKS = {
    "alibi": (stdlib.alibi(slopes=SLOPES), 2, True),
    "sandwich": (stdlib.sandwich(4, 8), 8, True),
    "squared distance": (stdlib.spatial_distance(POINTS, POINTS), 5, False),
    "a wave": (lambda s, b, h, q, kv: s + fx.sin(0.3 * (q - kv) + h), 2, True),
    "waves of two slopes": (lambda s, b, h, q, kv: s + fx.cos(0.3 * q - 0.1 * kv), 2, True),
    "gentle exponential": (lambda s, b, h, q, kv: s - fx.exp(0.01 * (kv - q)), 1, True),
    "steep exponential": (lambda s, b, h, q, kv: s + fx.exp(0.5 * (kv - q)), 1, False),
    "exponential of each head": (lambda s, b, h, q, kv: s + fx.exp(SLOPES[h] * (kv - q)), 1, False),
    "exponential of one side": (lambda s, b, h, q, kv: s + fx.exp(-0.01 * kv - 1.0 * q), 1, False),
    "square": (lambda s, b, h, q, kv: s + 0.1 * (1.0 * (q - kv)) * (1.0 * (q - kv)), 3, False),
    "inside of a softcap": (lambda s, b, h, q, kv: fx.tanh(s + SLOPES[h] * (q - kv)), 2, True),
    "a plain product": (lambda s, b, h, q, kv: s + POINTS[q, 0] * POINTS[kv, 1], None, False),
    "one side": (lambda s, b, h, q, kv: s + fx.cos(0.1 * kv), None, False),
    "bidirectional": (stdlib.alibi_bidirectional(4), None, False),
    "a table": (stdlib.t5_bias(np.ones((32, 4))), None, False),
    "parity": (lambda s, b, h, q, kv: s + 1.0 * ((q + kv) % 2), None, False),
}


def program_of(mod):
    return (mod if isinstance(mod, fx.Mod) else fx.score_mod(mod)).program


def values_of(expr, program, positions):
    q, kv = positions
    axes = {"b": np.asarray(0), "h": np.arange(4)[:, None, None], "score": np.asarray(0.7)}
    axes |= {"q": q[:, None], "kv": kv[None, :], "q_first": np.asarray(q[0])}
    return evaluate(expr, axes, bind(program.values, expr).all)


@pytest.mark.parametrize("name", RANKS)
def test_ranks_and_values(name):
    mod, rank, used = RANKS[name]
    program = program_of(mod)
    found = find_factors(program.expr, ORIGIN)
    assert [(f.rank, f.is_used) for f in found] == ([] if rank is None else [(rank, used)])
    positions = np.arange(20, 52), np.arange(0, 60)
    for factors in found:
        for node in walk(factors.split):
            # No factor knows both: what does is a sum or a product of such.
            assert node.op in (Op.ADD, Op.MUL) or not {"q", "kv"} <= node.variables
        np.testing.assert_allclose(
            values_of(factors.split, program, positions),
            values_of(factors.node, program, positions),
            atol=1e-10,
        )
    changed = separated(program.expr, ORIGIN)
    assert (changed is not program.expr) == used
    np.testing.assert_allclose(
        values_of(changed, program, positions),
        values_of(program.expr, program, positions),
        atol=1e-10,
    )


def test_what_is_told_of_it():
    told = stdlib.alibi(slopes=SLOPES).explain()
    assert "rank 2 in q and kv; used forward, for 16-bit inputs: 2 operations a pair in" in told
    assert "rank 5 in q and kv; not used: squares" in RANKS["squared distance"][0].explain()
    steep = fx.score_mod(RANKS["steep exponential"][0]).explain()
    assert "rank 1 in q and kv; not used: of its factors one may overflow" in steep
    assert "rank" not in stdlib.alibi_bidirectional(4).explain()


@pytest.mark.parametrize("name", ["alibi", "sandwich", "gentle exponential", "a wave"])
def test_far_from_the_first_position_nothing_is_lost(name):
    """In float32, a million tokens on: as near to float64 as the score as it is written."""
    program = program_of(RANKS[name][0])
    changed = separated(program.expr, ORIGIN)
    first = 10**6
    positions = np.arange(first, first + 128), np.arange(first - 300, first + 128)
    exact = values_of(program.expr, program, positions)

    def error(expr):
        axes = {"b": np.asarray(0), "h": np.arange(4)[:, None, None], "score": np.float32(0.7)}
        axes |= {"q": positions[0][:, None], "kv": positions[1][None, :]}
        axes |= {"q_first": np.asarray(first)}
        found = _in_float32(expr, axes, bind(program.values, expr).all)
        return float(np.abs(found - exact).max())

    assert error(changed) <= 2 * error(program.expr) + 2e-5


def _in_float32(expr, axes, values):
    """The value with every number rounded to float32, as a kernel does."""
    known = {}
    for node in walk(expr):
        args = {f"x{i}": known[a] for i, a in enumerate(node.args)}
        if node.op is Op.VAR:
            known[node] = axes[node.attribute]
        elif node.op in (Op.CONST, Op.LOAD, Op.PARAM):
            known[node] = np.asarray(evaluate(node, axes, values))
        else:
            operations = {
                Op.ADD: np.add, Op.SUB: np.subtract, Op.MUL: np.multiply, Op.DIV: np.divide,
                Op.NEG: np.negative, Op.COS: np.cos, Op.SIN: np.sin, Op.EXP: np.exp,
                Op.TO_FLOAT: np.float32,
            }  # fmt: skip
            known[node] = np.asarray(operations[node.op](*args.values()))
        if node.type is Type.FLOAT:
            known[node] = known[node].astype(np.float32)
    return known[expr].astype(np.float64)


numbers = st.recursive(
    st.one_of(
        st.sampled_from([var("q"), var("kv"), var("h")]).map(lambda x: apply(Op.TO_FLOAT, x)),
        st.integers(-3, 3).flatmap(
            lambda c: st.just(
                apply(
                    Op.TO_FLOAT,
                    apply(Op.ADD, apply(Op.MUL, var("q"), const(c)), apply(Op.NEG, var("kv"))),
                )
            )
        ),
        st.floats(-1.5, 1.5).map(const),
    ),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from([Op.ADD, Op.SUB, Op.MUL]), inner, inner).map(lambda t: apply(*t)),
        st.tuples(st.sampled_from([Op.NEG, Op.COS, Op.SIN]), inner).map(lambda t: apply(*t)),
    ),
    max_leaves=8,
)


@given(numbers)
def test_any_split_has_the_value_of_its_term(term):
    score = apply(Op.ADD, var("score"), term)
    for factors in find_factors(score, ORIGIN):
        axes = {"b": 0, "h": 2, "score": 0.0, "q": 11, "kv": 6, "q_first": 9}
        before, after = (evaluate(e, axes, {}) for e in (factors.node, factors.split))
        assert math.isclose(before, after, rel_tol=1e-6, abs_tol=1e-6 * 12.0**8)
        parts = max(factors.rank, 1)
        assert factors.cost >= 1 and factors.split_cost <= 2 * parts
