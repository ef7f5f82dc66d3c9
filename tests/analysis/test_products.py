"""Products of a number of q and one of kv: found as they are written, exact in their columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis.products import (
    MOST_COLUMNS,
    Product,
    find_most_products,
    find_products,
    take_products,
    width_of,
)
from flexdsl.analysis.values import bind
from flexdsl.ir import Capture, DType, const, evaluate, load, print_expr, var

X = np.random.default_rng(0).normal(size=(4, 60, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(4, 60, 3)).astype(np.float32)
HALF, BFLOAT = (torch.from_numpy(Y[0]).to(t) for t in (torch.float16, torch.bfloat16))

# The number of products, and what is left of the score.
FOUND = {
    "one": (lambda s, b, h, q, kv: s + X[h, q, 0] * Y[h, kv, 0], 1, "score"),
    "a sum of two": (
        lambda s, b, h, q, kv: s + (X[h, q, 0] * Y[h, kv, 0] - Y[0, kv, 1] * X[0, q, 1]),
        2,
        "score",
    ),
    "with both sides": (
        lambda s, b, h, q, kv: X[0, q, 0] + s - 2.0 * X[h, q, 0] * Y[h, kv, 0] / X[0, 0, h] + h,
        2,
        "score",
    ),
    "a key's number beside": (
        lambda s, b, h, q, kv: s - Y[0, kv, 2] + -(X[h, q, 0] * -Y[h, kv, 0]),
        2,
        "score",
    ),
    "inside of a softcap": (
        lambda s, b, h, q, kv: 5.0 * fx.tanh((s + X[h, q, 0] * Y[h, kv, 0]) / 5.0),
        1,
        "5.0 * tanh(score / 5.0)",
    ),
    "beside a term of both": (
        lambda s, b, h, q, kv: s + 0.5 * (kv - q) - X[h, q, 0] * Y[h, kv, 0],
        1,
        "score + 0.5 * (kv - q)",
    ),
    "where pairs are masked": (
        lambda s, b, h, q, kv: fx.where(q >= kv, s + X[h, q, 0] * Y[h, kv, 0], -1.0),
        1,
        "score if q >= kv else -1.0",
    ),
    "distances": (lambda s, b, h, q, kv: s + 0.5 * (kv - q), 0, ""),
    "a square": (
        lambda s, b, h, q, kv: s - (X[h, q, 0] - Y[h, kv, 0]) * (X[h, q, 0] - Y[h, kv, 0]),
        0,
        "",
    ),
    "one side": (lambda s, b, h, q, kv: s + Y[h, kv, 0], 0, ""),
    "the score alone as well": (
        lambda s, b, h, q, kv: fx.tanh(s + X[h, q, 0] * Y[h, kv, 0]) + s,
        0,
        "",
    ),
    "a score that is subtracted": (lambda s, b, h, q, kv: X[h, q, 0] * Y[h, kv, 0] - s, 0, ""),
    "a score times something": (
        lambda s, b, h, q, kv: s * X[h, q, 1] + X[h, q, 0] * Y[h, kv, 0],
        0,
        "",
    ),
}


def squared(h, q, kv, axis):
    difference = X[h, q, axis] - Y[h, kv, axis]
    return difference * difference


# Those with squares: the number of products, what is left, and the largest parts of either side.
SQUARES = {
    "one": (lambda s, b, h, q, kv: s - squared(h, q, kv, 0), 3, "score", (0,)),
    "a sum with a weight": (
        lambda s, b, h, q, kv: s - 0.5 * X[0, h, 1] * (squared(h, q, kv, 0) + squared(h, q, kv, 2)),
        4,
        "score",
        (0, 2),
    ),
    "of a sum": (
        lambda s, b, h, q, kv: s + (X[h, q, 0] + Y[h, kv, 0]) * (X[h, q, 0] + Y[h, kv, 0]),
        3,
        "score",
        (0,),
    ),
    "beside a term of both": (
        lambda s, b, h, q, kv: 4.0 * fx.tanh(s - squared(h, q, kv, 1) + fx.exp(X[h, q, 0] * kv)),
        3,
        "4.0 * tanh(score + exp(X[h, q, 0] * kv))",
        (1,),
    ),
    "beside one that knows both in a sum": (
        lambda s, b, h, q, kv: s - 2.0 * (squared(h, q, kv, 1) + fx.exp(X[h, q, 0] * kv)),
        0,
        "",
        (),
    ),
}


@pytest.mark.parametrize("name", SQUARES)
def test_squares_are_multiplied_out(name):
    mod, count, rest, axes = SQUARES[name]
    program = fx.score_mod(mod).program
    found = find_products(program.expr, squares=True)
    assert find_products(program.expr) is None
    if not count:
        assert found is None
        return
    expect_split(program, found, count, rest)
    assert found.has_squares and find_most_products(program.expr) == found
    ranges = {"h": np.arange(4)[:, None], "q": np.arange(60), "kv": np.arange(60)}
    weight = np.abs(0.5 * X[0, :4, 1])[:, None] if "weight" in name else 1.0
    for side, numbers in zip(found.squares, (X, Y), strict=True):
        wanted = weight * sum(numbers[:, :, axis].astype(np.float64) ** 2 for axis in axes)
        values = bind(program.values, side).all
        np.testing.assert_allclose(evaluate(side, ranges, values), wanted, rtol=1e-12)


def test_squares_of_too_many_columns_stay_as_they_are():
    points = np.ones((1, 8, 8, 3), np.float32)
    program = stdlib.ipa_points(points, points, np.ones(1, np.float32)).program
    assert width_of(find_products(program.expr, squares=True).products) > MOST_COLUMNS
    assert find_most_products(program.expr) is None


@pytest.mark.parametrize("name", FOUND)
def test_products_and_rest(name):
    mod, count, rest = FOUND[name]
    program = fx.score_mod(mod).program
    found = find_products(program.expr)
    if not count:
        assert found is None and take_products(program) == ((), program)
        return
    expect_split(program, found, count, rest)


def expect_split(program, found, count, rest):
    """The products and the rest are the score."""
    assert found is not None and len(found.products) == count
    assert print_expr(found.rest) == rest
    for product in found.products:
        assert "kv" not in product.row.variables and "q" not in product.key.variables
    axes = {"b": np.asarray(0), "h": np.arange(4)[:, None, None], "score": np.asarray(0.7)}
    axes |= {"q": np.arange(20, 52)[:, None], "kv": np.arange(60)[None, :]}

    def values(expr, axes):
        return evaluate(expr, axes, bind(program.values, expr).all)

    added = sum(values(p.row, axes) * values(p.key, axes) for p in found.products)
    split = values(found.rest, axes | {"score": axes["score"] + added})
    np.testing.assert_allclose(split, values(program.expr, axes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "columns"),
    [(X[0], Y[0], 6), (X[0], BFLOAT, 3), (BFLOAT, Y[0], 3), (X[0], HALF, 5), (BFLOAT, BFLOAT, 3)],
)
def test_columns(x, y, columns):
    """Each is a part of one number times one of the other; what is left out is below 2**-23."""
    found = find_products(fx.score_mod(lambda s, b, h, q, kv: s + x[q, 0] * y[kv, 0]).program.expr)
    (product,) = found.products
    assert len(product.columns) == columns and width_of(found.products) == 16
    one, other = np.float32(1 / 3), np.float32(X[0, 0, 0] if columns == 6 else 0.5)
    row, key = (one, other) if product.divides_row else (other, one)
    parts = [[], []]
    for of, number in zip(parts, (row, key), strict=True):
        rest = torch.tensor(number)
        for _ in range(3):
            of.append(float(rest.bfloat16()))
            rest = rest - rest.bfloat16().float()
        assert rest == 0
    total = sum(parts[0][i] * parts[1][j] for i, j in product.columns)
    exact = float(row) * float(key)
    assert abs(total - exact) <= 2**-23 * abs(exact)


@pytest.mark.parametrize(
    ("number", "columns"), [(1.5, 3), (257.0, 5), (1 / 3, 6), (1e300, 6), (float("inf"), 6)]
)
def test_columns_of_a_constant(number, columns):
    row = load(Capture("x", DType.F32, 1), var("q"))
    assert len(Product(row, const(number)).columns) == columns


def test_too_many_columns():
    wide = stdlib.lowrank_bias(*(np.ones((8, 17), np.float32) for _ in "qk")).program
    found = find_products(wide.expr)
    assert width_of(found.products) == 112 > MOST_COLUMNS
    assert take_products(wide) == ((), wide)
