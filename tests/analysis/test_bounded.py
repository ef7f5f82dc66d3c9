"""A score is called bounded only where it never leaves the bounds, whatever it modifies."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.analysis.bounded import MOST, is_bounded
from flexdsl.ir import Kind, Op, Program, Type, apply, param, var
from tests.support.expressions import VALUES, F, expected_of, trees

POSITIONS = {"b": range(2), "h": range(3), "q": range(4, 20), "kv": range(16)}
LARGE = 1e30


def is_bounded_on(score: Any, positions: dict[str, range] = POSITIONS) -> bool:
    return is_bounded(fx.score_mod(score).program, positions)


def softcap(cap: float) -> Any:
    return lambda score, b, h, q, kv: cap * fx.tanh(score / cap)


@pytest.mark.parametrize("cap", [1e-3, 1.0, 30.0, 50.0, -50.0, 51.9, 1e-30])
def test_a_softcap_is_bounded_by_its_cap(cap: float) -> None:
    assert is_bounded_on(softcap(cap))


@pytest.mark.parametrize("cap", [52.1, -60.0, 1e6, math.inf, math.nan])
def test_a_cap_may_be_too_large_or_none(cap: float) -> None:
    assert not is_bounded_on(softcap(cap))


def test_forms() -> None:
    assert is_bounded_on(lambda s, b, h, q, kv: 20.0 * fx.sigmoid(s) - 0.5 * h)
    assert is_bounded_on(lambda s, b, h, q, kv: fx.minimum(fx.maximum(s, -20.0), 20.0))
    assert is_bounded_on(lambda s, b, h, q, kv: fx.where(q >= kv, fx.tanh(s), 3.0))
    assert not is_bounded_on(lambda s, b, h, q, kv: s)
    assert not is_bounded_on(lambda s, b, h, q, kv: fx.minimum(s, 20.0))
    assert not is_bounded_on(lambda s, b, h, q, kv: fx.tanh(s) / fx.tanh(s))
    assert not is_bounded_on(lambda s, b, h, q, kv: fx.tanh(s) + fx.log(1.0 * kv))


def test_positions_count() -> None:
    biased = lambda s, b, h, q, kv: fx.tanh(s) - 1.0 * abs(q - kv)  # noqa: E731
    assert is_bounded_on(biased)
    assert not is_bounded_on(biased, {**POSITIONS, "kv": range(100)})
    assert not is_bounded_on(biased, {**POSITIONS, "q": range(100, 101)})


def test_what_is_not_known() -> None:
    table = VALUES["bias"]
    assert not is_bounded_on(lambda s, b, h, q, kv: fx.tanh(s) + table[h])
    without_number = apply(Op.MUL, param("cap", Type.FLOAT), apply(Op.TANH, var("score")))
    assert not is_bounded(Program(Kind.SCORE, "named", without_number), POSITIONS)


SMALL = st.integers(0, 15)
SCORES = st.sampled_from([-LARGE, -60.0, -1.0, 0.0, 0.5, 3.0, 52.5, LARGE])


@given(trees(F, nan=False), st.fixed_dictionaries(dict.fromkeys(POSITIONS, SMALL)), SCORES)
def test_no_score_leaves_the_bounds(tree: Any, where: dict[str, int], score: float) -> None:
    """Of drawn expressions, and of such that are squeezed, more of which are bounded."""
    squeezed = (Op.TANH, tree)
    for drawn in (tree, squeezed, (Op.MUL, squeezed, (Op.CONST, 51.0)), (Op.MUL, squeezed, tree)):
        point = {n: r[where[n] % len(r)] for n, r in POSITIONS.items()}
        expr, found = expected_of(drawn, {**point, "score": score})
        program = Program(Kind.SCORE, "drawn", expr, VALUES)
        assert not is_bounded(program, POSITIONS) or abs(found) <= MOST
