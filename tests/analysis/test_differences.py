"""Terms of q - kv: which are tables, whose numbers are those of their terms to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis.differences import (
    PRICE,
    describe_tables,
    find_tables,
    with_loads,
    without_loads,
)
from flexdsl.analysis.prices import price_of
from flexdsl.ir import DType, Op, evaluate, walk

BUCKETS = np.arange(200) // 9
WIDE = BUCKETS.astype(np.int64)
NARROW = BUCKETS.astype(np.int32)
TABLE = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
REACH = 5

# What is left of the score, and the tables with "q" for q - kv.
FOUND = {
    "a wave": (
        lambda s, b, h, q, kv: s + fx.cos((q - kv) * 0.1),
        "score + of_difference_0[q + zero_at - kv]",
        ["cos(q * 0.1)"],
    ),
    "of each head and batch": (
        lambda s, b, h, q, kv: s * fx.tanh(-(h + b + 1.0) * abs(kv - q)),
        "score * of_difference_0[b, h, q + zero_at - kv]",
        ["tanh(-(h + b + 1.0) * abs(-q))"],
    ),
    "two, with the planes of both": (
        lambda s, b, h, q, kv: (s + fx.tanh(-0.1 * abs(q - kv))) * fx.cos(h * (q - kv)),
        "(score + of_difference_0[h, q + zero_at - kv]) * of_difference_1[h, q + zero_at - kv]",
        ["tanh(-0.1 * abs(q))", "cos(h * q)"],
    ),
    "inside of other terms": (
        lambda s, b, h, q, kv: s + TABLE[h, kv] * fx.tanh(-0.1 * abs(q - kv)),
        "score + TABLE[h, kv] * of_difference_0[q + zero_at - kv]",
        ["tanh(-0.1 * abs(q))"],
    ),
    "a choice": (
        lambda s, b, h, q, kv: s + fx.where(q >= kv, fx.tanh(kv - q), 0.0),
        "score + of_difference_0[q + zero_at - kv]",
        ["tanh(-q) if q >= 0 else 0.0"],
    ),
    "an index": (
        lambda s, b, h, q, kv: s + TABLE[b, fx.minimum(NARROW[abs(q - kv)] // 2 + kv % 2, 29)],
        "score + TABLE[b, min(of_difference_0[q + zero_at - kv] + kv % 2, 29)]",
        ["NARROW[abs(q)] // 2"],
    ),
    "a bool, of which the operands may be": (
        lambda s, b, h, q, kv: fx.where(fx.tanh(kv - q) < TABLE[h, kv], s, 0.0),
        "score if of_difference_0[q + zero_at - kv] < TABLE[h, kv] else 0.0",
        ["tanh(-q)"],
    ),
    "what is worth less than a load": (
        lambda s, b, h, q, kv: s + TABLE[h, 0] * fx.maximum(kv - q, -REACH),
        "score + TABLE[h, 0] * max(kv - q, -REACH)",
        [],
    ),
    "one load": (
        lambda s, b, h, q, kv: s + TABLE[h, q - kv + REACH],
        "score + TABLE[h, q - kv + REACH]",
        [],
    ),
    "positions and no difference": (
        lambda s, b, h, q, kv: s + fx.cos(0.1 * (q + kv)) + fx.tanh(-0.1 * q),
        "score + cos(0.1 * (q + kv)) + tanh(-0.1 * q)",
        [],
    ),
    "an exponential, for which GPUs have an instruction": (
        lambda s, b, h, q, kv: s * fx.exp(-0.1 * abs(q - kv)),
        "score * exp(-0.1 * abs(q - kv))",
        [],
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_found(name):
    score, rest, numbers = FOUND[name]
    expr = fx.score_mod(score).expr
    tables = find_tables(expr)
    assert repr(with_loads(expr, tables)) == rest
    assert [repr(t.number) for t in tables] == numbers
    assert without_loads(with_loads(expr, tables), tables) is expr


def test_what_is_learned_stays():
    expr = stdlib.t5_bias(TABLE.T[:28]).expr
    (whole,) = find_tables(expr)
    (index,) = find_tables(expr, frozenset({"biases"}))
    assert whole.capture.dtype is DType.F32 and index.capture.dtype is DType.I32
    rest = repr(with_loads(expr, (index,)))
    assert rest == "score + biases[of_difference_0[q + zero_at - kv], h]"


@pytest.mark.parametrize("score", [stdlib.retention(4), stdlib.lightning_decay(4)], ids=str)
def test_decays_stay_as_they_are_written(score):
    """Measured: as long forward as a load of a table, and less backward."""
    assert find_tables(score.expr) == () and not list(describe_tables(score.expr))


def test_two_exponentials_are_worth_a_table():
    score = fx.score_mod(lambda s, b, h, q, kv: s + fx.exp(0.1 * (kv - q)) * fx.exp2(kv - q - 1.0))
    (table,) = find_tables(score.expr)
    (told,) = describe_tables(score.expr)
    assert repr(table.number) == "exp(0.1 * -q) * exp2(-q - 1.0)" and "2 exponentials" in told


def test_integers_of_64_bits_keep_them():
    """A parameter may have 64 bits, and so may the elements of a tensor."""
    of = [lambda s, b, h, q, kv: s + 0.5 * kv * (WIDE[abs(q - kv)] // 2)]
    of += [lambda s, b, h, q, kv: s + 0.5 * kv * ((q - kv) // 3 % 5 + REACH)]
    for score in of:
        (table,) = find_tables(fx.score_mod(score).expr)
        # As a float it is a float's table; the number below it is an integer's.
        assert table.capture.dtype is DType.F32
    choose = fx.score_mod(lambda s, b, h, q, kv: s + TABLE[b, WIDE[abs(q - kv)] // 2 + kv % 2])
    (table,) = find_tables(choose.expr)
    assert table.capture.dtype is DType.I64


def test_names_that_are_taken():
    expr = stdlib.sandwich(2, 2).expr
    (table,) = find_tables(expr, taken=frozenset({"of_difference_0", "zero_at"}))
    assert repr(table.load) == "of_difference_0_[h, q + zero_at_ - kv]"


@pytest.mark.parametrize(
    ("score", "line"),
    [
        (
            stdlib.sandwich(4),
            "a table of q - kv and h: 64 cosines once for each difference in place of each pair",
        ),
        (
            stdlib.t5_bias(TABLE.T[:28]),
            "a table of q - kv and h: 2 loads once for each difference in place of each pair",
        ),
    ],
)
def test_what_is_told(score, line):
    assert list(describe_tables(score.expr)) == [line]
    assert line in score.explain()


TERMS = st.recursive(
    st.sampled_from(
        [
            *("(q - kv)", "(2 * q - 2 * kv + 3)", "h", "b", "REACH", "0.5", "kv", "q"),
            "TABLE[h, fx.minimum(abs(q - kv), 29)]",
            "(TABLE[h, kv % 30] * (BUCKETS[abs(q - kv)] // 2))",
        ]
    ),
    lambda below: st.one_of(
        st.tuples(below, st.sampled_from("+-*"), below).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(st.sampled_from(["fx.cos", "fx.tanh"]), below).map(lambda p: f"{p[0]}({p[1]})"),
        st.tuples(below, below, below).map(lambda p: f"fx.where({p[0]} <= {p[1]}, {p[2]}, 1.0)"),
        below.map(lambda x: f"fx.minimum({x}, 4)"),
    ),
    max_leaves=8,
)


@given(TERMS)
def test_a_table_has_the_numbers_of_the_term(text):
    names = {"fx": fx, "TABLE": TABLE, "BUCKETS": BUCKETS, "REACH": REACH}
    mod = fx.score_mod(eval(f"lambda s, b, h, q, kv: s + {text}", names))
    q, kv = np.meshgrid(np.arange(7, 40), np.arange(30), indexing="ij")
    for table in find_tables(mod.expr):
        price = sum(price_of(n.op) for n in walk(table.term) if n.variables >= {"q", "kv"})
        assert price > PRICE and "kv" not in table.number.variables
        for h in range(2):
            axes = {"b": np.asarray(1), "h": np.asarray(h)}
            term = evaluate(table.term, {**axes, "q": q, "kv": kv}, mod.program.values)
            number = evaluate(table.number, {**axes, "q": q - kv}, mod.program.values)
            np.testing.assert_array_equal(term, number)


def test_long_scores_are_left_alone():
    def long(s, b, h, q, kv):
        for i in range(3000):
            s = s + fx.cos((q - kv) * (i / 7.0))
        return s

    expr = fx.score_mod(long).expr
    assert find_tables(expr) == () and any(n.op is Op.COS for n in walk(expr))
