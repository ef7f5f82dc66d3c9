"""What the mask proves drops out of a score, whose values stay at the pairs that it allows."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis.given import describe_given, score_given, simplified_given
from flexdsl.codegen import Language, Phase, generate_unbound
from flexdsl.errors import TypeMismatchError
from flexdsl.ir import Expr, Op, Type, apply, const, evaluate, load, param, var, verify
from support.expressions import CAPTURES, VALUES

SLOPES = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
DECLARED = "(w: int = 5, x: float = 0.5, t: f32[8], u: f32[8])"


def expr_of(text: str, kind: str = "score") -> Expr:
    return fx.parse(f"{kind} mod{DECLARED} = {text}").expr


def simplified(score: str, mask: str) -> Expr:
    return simplified_given(expr_of(score), expr_of(mask, "mask"))


CAUSAL = "q >= kv"
WINDOW = "q >= kv and q - kv < w"
FOLLOWS = [
    ("score - x * abs(q - kv)", CAUSAL, "score - x * (q - kv)"),
    ("score - x * abs(kv - q)", CAUSAL, "score - x * (q - kv)"),
    ("score - x * abs(q - kv)", WINDOW, "score - x * (q - kv)"),
    ("score - x * abs(q - kv)", "kv % 2 == 0 and not kv > q", "score - x * (q - kv)"),
    ("score - x * abs(q - kv)", "not (kv > q or h == 3)", "score - x * (q - kv)"),
    ("score - x * abs(q - kv)", "q <= kv", "score - x * (kv - q)"),
    ("score - x * abs(2 * q - 2 * kv + h)", CAUSAL, "score - x * (2 * q - 2 * kv + h)"),
    ("score - x * abs(q - 3)", "q == kv + 3", "score - x * (q - 3)"),
    ("score - abs(q // 8 - kv // 8)", CAUSAL, "score - (q // 8 - kv // 8)"),
    ("score - abs((q >> 3) - kv // 8)", CAUSAL, "score - ((q >> 3) - kv // 8)"),
    ("score - abs((q + 2) // 4 - kv // 4)", "q >= kv - 2", "score - ((q + 2) // 4 - kv // 4)"),
    ("score + max(q - kv, 0)", CAUSAL, "score + (q - kv)"),
    ("score + min(kv - q, 0)", CAUSAL, "score + (kv - q)"),
    ("score + max(0, kv - q)", CAUSAL, "score + 0"),
    ("score + max(kv, 0)", "b == 1", "score + kv"),
    ("score + min(q - kv, w)", WINDOW, "score + (q - kv)"),
    ("score + min(abs(q - kv), w)", "abs(q - kv) <= w", "score + abs(q - kv)"),
    ("score + max(w, kv - q)", "abs(q - kv) <= w", "score + w"),
    ("score + min(kv, w)", "max(q, kv) < w", "score + kv"),
    ("score + min(h, w)", "kv > h and q > kv and q < w", "score + min(h, w)"),  # three facts
    ("score + min(kv, w)", "q > kv and q < w", "score + kv"),  # two
    ("score if kv <= q else -inf", CAUSAL, "score"),
    # Of other pairs the new ones may have no value, or no derivative.
    ("score * (exp(x * (kv - q)) if q >= kv else 0.0)", CAUSAL, "score * exp(x * (kv - q))"),
    ("score * exp(-x * max(q - kv, 0))", CAUSAL, "score * exp(-x * (q - kv))"),
    ("score * (t[kv] if q >= kv else 0.0)", CAUSAL, "score * t[kv]"),
    ("score / max(q - kv, 1)", "q > kv", "score / (q - kv)"),
    (
        "tanh(score) * (sqrt(float(q - kv)) if q >= kv else 0)",
        CAUSAL,
        "tanh(score) * sqrt(float(q - kv))",
    ),
    ("score + (t[kv] if kv > q else u[kv])", CAUSAL, "score + u[kv]"),
    ("score + (t[kv] if q == kv else u[kv])", "q > kv", "score + u[kv]"),
    ("score + (t[kv] if q != kv else u[kv])", "q > kv", "score + t[kv]"),
    ("score + (t[kv] if q != kv else u[kv])", "q == kv", "score + u[kv]"),
    ("score + (t[kv] if h < 2 or q >= kv else u[kv])", CAUSAL, "score + t[kv]"),
    ("score + (t[kv] if (q + kv) % 3 != 0 else u[kv])", "(q + kv) % 3 != 0", "score + t[kv]"),
    ("score + (t[kv] if x * kv < 2.0 else u[kv])", "not (x * kv < 2.0 or h == 3)", "score + u[kv]"),
    ("score + t[(0 if q >= kv else 4) + h]", CAUSAL, "score + t[0 + h]"),
    ("5.0 * tanh((score - x * abs(q - kv)) / x)", CAUSAL, "5.0 * tanh((score - x * (q - kv)) / x)"),
    ("score + exp(x * kv) - abs(q - kv)", CAUSAL, "score + exp(x * kv) - (q - kv)"),
    ("score * t[kv] - abs(q - kv)", CAUSAL, "score * t[kv] - (q - kv)"),
]


@pytest.mark.parametrize(("score", "mask", "wanted"), FOLLOWS)
def test_what_follows(score: str, mask: str, wanted: str) -> None:
    found = simplified(score, mask)
    assert found is expr_of(wanted)
    verify(found)
    assert simplified_given(found, expr_of(mask, "mask")) is found


LEFT = [
    ("score - abs(q - kv)", "abs(q - kv) < w"),
    ("score - abs(q - kv)", "q >= kv or kv < 4"),
    ("score - abs(q - kv)", "q >= kv - 1"),
    ("score - abs(q - kv)", "True"),
    ("score - abs(q // 8 - kv // 4)", CAUSAL),
    ("score - abs(q // 8 - (kv + 1) // 8)", CAUSAL),
    ("score - abs(q % 8 - kv % 8)", CAUSAL),
    ("score - abs(q - kv)", "q - kv < w"),
    ("score + max(q - kv, 1)", CAUSAL),
    ("score + min(q - kv, w)", CAUSAL),
    ("score - abs((q - kv) * 0.5)", CAUSAL),  # of floats
    ("score + (1.0 if q - 1 >= kv else 2.0)", CAUSAL),
    ("score + (1.0 if score <= 0.0 else 2.0)", CAUSAL),
    ("score + q // max(q - kv, 1)", "q > kv"),  # a kernel would divide by what may be 0
    ("score + (h >> 1) % max(1, q - kv)", "q > kv"),
    ("score + t[abs(q - kv)]", CAUSAL),  # which is inside the tensor also where kv > q
    ("score + t[min(max(q - kv, 0), 7)]", CAUSAL),
]


@pytest.mark.parametrize(("score", "mask"), LEFT)
def test_what_does_not_follow_is_left_alone(score: str, mask: str) -> None:
    assert simplified(score, mask) is expr_of(score)


def test_what_has_no_value_is_left_alone() -> None:
    """Constants that no allowed pair has, and that would be folded to one that does not fit."""
    score = "score + (2 if kv <= q else 4611686018427387904) * 4"
    assert simplified(score, "kv > q") is expr_of(score)
    assert simplified(score, CAUSAL) is expr_of("score + 8")


def test_one_program_for_one_score_and_mask() -> None:
    """What is remembered of a program, as plans and kernels, is found again at the next call."""
    score, mask = stdlib.alibi_bidirectional(4).program, stdlib.causal().program
    found = score_given(score, mask)
    assert found is not None and found is not score and found.values == score.values
    assert score_given(score, mask) is found
    assert score_given(score, None) is score and score_given(None, mask) is None
    assert score_given(score, fx.parse("kv == 3 or q >= kv").program) is score


def test_description() -> None:
    mask = fx.parse(CAUSAL).program
    both = fx.parse("score - abs(q - kv) + (1.0 if kv <= q else 2.0)").program
    text = "abs(q - kv) is q - kv, kv <= q is true where the mask allows a pair"
    assert list(describe_given(both, mask)) == [text]
    in_index = fx.parse("score mod(t: f32[8]) = score + t[abs(q - kv)]").program
    assert not list(describe_given(in_index, mask))
    assert not list(describe_given(both, None))


@pytest.mark.parametrize(
    ("phase", "language"),
    [
        (Phase.FORWARD, Language.TRITON),
        (Phase.FORWARD_SPLIT, Language.TRITON),
        (Phase.BACKWARD_QUERY, Language.TRITON),
        (Phase.BACKWARD_KEY, Language.TRITON),
        (Phase.FORWARD, Language.GLUON),
        (Phase.BACKWARD, Language.GLUON),
    ],
)
def test_kernels_have_no_absolute_value(phase: Phase, language: Language) -> None:
    """ALiBi by absolute distances is, under a causal mask, ALiBi in every kernel."""

    def body(score: fx.Mod) -> str:
        mask = fx.parse(CAUSAL).program
        kernel = generate_unbound(mask, score.program, 64, 64, phase, language)
        return kernel.source.split('"""', 2)[2]

    found = body(fx.score_mod(lambda s, b, h, q, kv: s - SLOPES[h] * fx.abs(q - kv)))
    assert found == body(fx.score_mod(lambda s, b, h, q, kv: s - SLOPES[h] * (q - kv)))
    assert "abs(" not in found and "slopes" in found.lower()


# --- any mask, any score ------------------------------------------------------------------------

Q, KV = var("q"), var("kv")
GRID = dict(
    zip(
        ("b", "h", "q", "kv"),
        np.meshgrid([0, 2], [0, 1], np.arange(3, 10), np.arange(9), indexing="ij"),
        strict=True,
    )
)
_small = st.integers(-3, 4).map(const)
_leaves = st.sampled_from([Q, KV, var("h"), var("b"), param("window", Type.INDEX)]) | _small
_near = st.builds(
    lambda a, b: apply(Op.ADD, apply(Op.SUB, Q, KV), apply(Op.MUL, a, b)), *[_small] * 2
)


def _indices(below: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    def call(*ops: Op) -> st.SearchStrategy[Expr]:
        return st.builds(apply, st.sampled_from(ops), below, below)

    divisor = st.integers(1, 4).map(const)
    return st.one_of(
        call(Op.ADD, Op.SUB, Op.MIN, Op.MAX),
        call(Op.MIN, Op.MAX),
        st.builds(apply, st.sampled_from([Op.ABS, Op.NEG]), below),
        st.builds(apply, st.sampled_from([Op.FLOORDIV, Op.MOD]), below, divisor),
        st.builds(lambda a, c: apply(Op.MUL, a, c), below, _small),
        st.builds(lambda i: load(CAPTURES["doc"], i), below),
        st.builds(lambda c, a, b: apply(Op.WHERE, c, a, b), _conditions(below), below, below),
    )


def _conditions(below: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    ops = st.sampled_from([Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE])
    return st.builds(apply, ops, below, below)


_simple = st.recursive(_leaves | _near, _indices, max_leaves=3)
indices = st.recursive(_leaves | _near, _indices, max_leaves=6)
_likely = st.sampled_from(
    [expr_of(text, "mask") for text in ("q >= kv", "kv > q", "q - kv < 3", "abs(q - kv) <= 2")]
)
_compared = _conditions(_simple)
_plain = st.one_of(_likely, _compared, _compared.map(lambda c: apply(Op.NOT, c)))
_conjuncts = st.one_of(_plain, _plain, st.builds(lambda a, b: apply(Op.OR, a, b), _plain, _plain))
masks = st.lists(_conjuncts, min_size=1, max_size=4).map(
    lambda parts: reduce(lambda a, b: apply(Op.AND, a, b), parts)
)


def _made(op: Op, *args: Expr) -> Expr:
    try:
        return apply(op, *args)
    except TypeMismatchError:  # a quotient by the constant zero
        reject()


def _floats(below: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    def call(*ops: Op) -> st.SearchStrategy[Expr]:
        return st.builds(_made, st.sampled_from(ops), below, below)

    unary = st.sampled_from([Op.EXP, Op.TANH, Op.SQRT, Op.LOG, Op.ABS, Op.NEG, Op.SIN])
    conditions = _likely | _conditions(indices)
    return st.one_of(
        call(Op.ADD, Op.SUB, Op.MUL),
        call(Op.MUL, Op.DIV, Op.MIN, Op.MAX),
        st.builds(_made, unary, below),
        st.builds(_made, st.just(Op.WHERE), conditions, below, below),
    )


_numbers = st.one_of(
    st.just(var("score")),
    indices.map(lambda i: apply(Op.TO_FLOAT, i)),
    st.builds(lambda i: load(CAPTURES["bias"], i), indices),
    st.sampled_from([0.5, -2.0]).map(const),
    _near.map(lambda i: apply(Op.EXP, apply(Op.MUL, const(300.0), i))),
)
scores = st.recursive(_numbers, _floats, max_leaves=6)


def values(expr: Expr, bias: Any = VALUES["bias"]) -> np.ndarray:
    grid: dict[str, Any] = GRID | {
        "score": np.linspace(-3, 3, GRID["q"].size).reshape(GRID["q"].shape)
    }
    return np.broadcast_to(
        evaluate(expr, grid, VALUES | {"bias": bias, "t": VALUES["bias"]}), GRID["q"].shape
    )


@settings(max_examples=500)
@given(scores, masks)
@example(apply(Op.SUB, var("score"), apply(Op.ABS, apply(Op.SUB, Q, KV))), apply(Op.GE, Q, KV))
def test_values_at_allowed_pairs_stay(score: Expr, mask: Expr) -> None:
    found, allowed = simplified_given(score, mask), values(mask)
    verify(found)
    np.testing.assert_array_equal(values(found)[allowed], values(score)[allowed])


@settings(max_examples=300)
@given(indices, masks)
def test_indices_at_allowed_pairs_stay(index: Expr, mask: Expr) -> None:
    """The same of an index alone, which is rewritten most."""
    score = apply(Op.ADD, var("score"), index)
    found, allowed = simplified_given(score, mask), values(mask)
    np.testing.assert_array_equal(values(found)[allowed], values(score)[allowed])
