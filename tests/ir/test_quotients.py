"""Quotients and remainders of digits: simpler, and of the same value for every index."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.ir import Op, apply, const, evaluate, var

CASES = {
    "(q // 768 * 96 + q % 768 // 8 % 6 * 16 + q % 16) // 96": "q // 768",
    "(kv * 96 + kv % 96) % 96": "kv % 96",
    "q // 128 // 6": "q // 768",
    "q % 128 % 16": "q % 16",
    "q % 16 % 128": "q % 16",
    "(q * 4 + 8 * kv + 1) // 4": "q + kv * 2",
    "(q * 12 + max(2, min(kv % 100, 11))) // 12": "q",
    "((q * 2 + kv % 2) * 96 + h % 96) // 192": "q",
    "q // 128 % 6 * 128 + q % 128": "q % 768",
    "q % 128 + q // 128 * 128": "q",
    "(kv + 1) // 8 % 4 * 8 + (kv + 1) % 8": "(kv + 1) % 32",
    "(q * 16 - kv * 32 + h) % 16": "h % 16",
    "(h - (q * 16 + kv)) % 16": "(h - kv) % 16",
    "(q * 16 - kv) % 16": "-kv % 16",
    "(16 - kv % 3) % 16": "-(kv % 3) % 16",
    "(q * 16 - kv * 32 + h % 3) % 16": "h % 3",
    # Digits of other indices, or not side by side.
    "q // 128 % 6 * 128 + kv % 128": "q // 128 % 6 * 128 + kv % 128",
    "q // 128 % 6 * 128 + q % 64": "q // 128 % 6 * 128 + q % 64",
    # Nothing is known of what is left: it may reach the divisor.
    "(q * 96 + kv % 97) // 96": "(q * 96 + kv % 97) // 96",
    "(q * 96 - kv % 96) // 96": "(q * 96 - kv % 96) // 96",
    "(q * 12 + min(kv, 11)) // 12": "(q * 12 + min(kv, 11)) // 12",
    "q % 6 % 4": "q % 6 % 4",
}


@pytest.mark.parametrize("text", CASES)
def test_cases(text):
    assert fx.parse(f"{text} == 0").expr is fx.parse(f"{CASES[text]} == 0").expr
    assert fx.parse(f"{text} == 0").text.endswith(f"= {CASES[text]} == 0")


small = st.integers(-7, 7)
leaves = st.tuples(st.sampled_from(["q", "kv"])) | small
trees = st.recursive(
    leaves,
    lambda x: st.one_of(
        st.tuples(st.sampled_from([Op.ADD, Op.MUL, Op.MIN, Op.MAX, Op.SUB]), x, x),
        st.tuples(st.sampled_from([Op.FLOORDIV, Op.MOD]), x, st.integers(1, 12)),
    ),
    max_leaves=6,
)


sizes = st.integers(1, 12)
# Digits of an index that stand side by side, in a quotient or a remainder of both.
digits = st.builds(
    lambda x, n, m, op, k: (
        op,
        (Op.ADD, (Op.MUL, (Op.MOD, (Op.FLOORDIV, x, n), m), n), (Op.MOD, x, n)),
        k,
    ),
    *(trees, sizes, sizes, st.sampled_from([Op.FLOORDIV, Op.MOD]), sizes),
)


def built(tree):
    if isinstance(tree, int):
        return const(tree)
    return var(tree[0]) if len(tree) == 1 else apply(tree[0], built(tree[1]), built(tree[2]))


def value(tree, variables):
    if isinstance(tree, int):
        return tree
    if len(tree) == 1:
        return variables[tree[0]]
    op, a, b = tree[0], value(tree[1], variables), value(tree[2], variables)
    match op:
        case Op.ADD:
            return a + b
        case Op.SUB:
            return a - b
        case Op.MUL:
            return a * b
        case Op.MIN:
            return min(a, b)
        case Op.MAX:
            return max(a, b)
        case Op.FLOORDIV:
            return a // b
    return a % b


@given(trees | digits, st.integers(0, 300), st.integers(0, 300))
def test_the_value_stays(tree, q, kv):
    variables = {"q": q, "kv": kv}
    assert int(evaluate(built(tree), variables, {})) == value(tree, variables)
