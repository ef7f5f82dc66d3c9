"""Scores computed from factors in generated kernels: as exact as eager attention of their dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.codegen import KernelSpec, Language, Phase
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.runtime import bind, launch, low_rank
from tests.codegen.biased import expect_biased, expect_exact
from tests.codegen.oracle import DEVICE, TOLERANCE, expect, expect_gradients, gradients
from tests.codegen.variants import HEADS

SLOPES = torch.linspace(0.5, 0.02, HEADS, device=DEVICE)
SCORES = {
    "alibi": lambda: fx.score_mod(lambda s, b, h, q, kv: s + SLOPES[h] * (kv - q)),
    "sandwich": lambda: stdlib.sandwich(HEADS, 8),
    "exponential": lambda: fx.score_mod(lambda s, b, h, q, kv: s - fx.exp(0.02 * (kv - q))),
    "softcap of alibi": lambda: fx.score_mod(
        lambda s, b, h, q, kv: 5.0 * fx.tanh((s + 0.25 * (kv - q)) / 5.0)
    ),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("q_offset", [0, 100_000])
def test_the_forward_pass(name, q_offset):
    score = SCORES[name]()
    mask = fx.mask_mod(lambda b, h, q, kv: q - q_offset + 20 >= kv) if q_offset else stdlib.causal()
    expect(mask, score, dtype=torch.float16, q_offset=q_offset)


@pytest.mark.parametrize("name", ["alibi", "sandwich", "softcap of alibi"])
def test_the_backward_pass(name):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).half().to(DEVICE)

    inputs = [draw(1, HEADS, 70, 32), draw(1, HEADS, 90, 32), draw(1, HEADS, 90, 32)]
    incoming = [draw(1, HEADS, 70, 32), draw(1, HEADS, 70)]
    found = gradients(stdlib.causal(), SCORES[name](), inputs, incoming, "triton")
    wanted = gradients(
        stdlib.causal(),
        SCORES[name](),
        [x.cpu().double() for x in inputs],
        [x.cpu().double() for x in incoming],
        "reference",
    )
    for a, b in zip(found, wanted, strict=True):
        error = (a.cpu().double() - b).norm() / b.norm()
        assert error < TOLERANCE[torch.float16]


def bound(score, learned=()):
    lengths = bind.Lengths(1, HEADS, 64, 64, 0)
    program = bind.with_tensors(score.program, torch.device(DEVICE))
    return bind.bind(None, program, lengths, (0, 0), learned)


def test_which_kernels_compute_factors():
    score = SCORES["alibi"]()
    plain = bound(score)
    kernel = low_rank.score_of_kernel(plain, torch.float16, Phase.FORWARD)
    assert "kv - q_first" in repr(kernel.expr) and "kv - q)" not in repr(kernel.expr)
    for phase in (Phase.BACKWARD, Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY):
        assert low_rank.score_of_kernel(plain, torch.bfloat16, phase) is plain.score
    assert low_rank.score_of_kernel(plain, torch.float32, Phase.FORWARD) is plain.score
    learned = bound(score, tuple(bind.captured(score.program)))
    assert low_rank.score_of_kernel(learned, torch.float16, Phase.FORWARD) is learned.score


@pytest.mark.parametrize("language", [Language.GLUON, Language.TRITON])
def test_both_targets_take_the_origin(language):
    """What `attention` gives a kernel for 16-bit inputs is written in terms that it has."""
    score = low_rank.score_of_kernel(bound(SCORES["alibi"]()), torch.float16, Phase.FORWARD)
    text = GENERATORS[Phase.FORWARD, language](KernelSpec(None, score, None, 64, 64)).source
    assert ("(q_offset + q_start)" if language is Language.GLUON else "q_first") in text


GENERATOR = torch.Generator().manual_seed(3)


def factors(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=GENERATOR).to(DEVICE, dtype)


RANKS = {
    "rank 2": lambda n, m: (factors(n, 2), factors(m, 2)),
    "rank 8": lambda n, m: (factors(n, 8), factors(m, 8)),
    "rank 16": lambda n, m: (factors(n, 16), factors(m, 16)),
    "rank 16 in bfloat16": lambda n, m: (
        factors(n, 16, dtype=torch.bfloat16),
        factors(m, 16, dtype=torch.bfloat16),
    ),
    "rank 3 in float16": lambda n, m: (
        factors(n, 3, dtype=torch.float16),
        factors(m, 3, dtype=torch.float16),
    ),
    "of each head": lambda n, m: (factors(HEADS, n, 2), factors(HEADS, m, 2)),
    "of each batch": lambda n, m: (factors(2, HEADS, n, 2), factors(2, HEADS, m, 2)),
    "large": lambda n, m: (1e3 * factors(n, 2), factors(m, 2)),
}


@pytest.mark.parametrize("name", RANKS)
def test_products(name, monkeypatch):
    """Of 130 rows and 150 keys, some are in the last tile, of matrices and of scores."""
    monkeypatch.setattr(launch, "_KERNELS", {})
    expect_biased(*RANKS[name](130, 150))
    assert {key[0] for key in launch._KERNELS} == {Phase.FACTORS, Phase.FORWARD}


@pytest.mark.parametrize("kv_heads", [1, HEADS])
def test_gradients_under_products(kv_heads):
    expect_biased(factors(2, HEADS, 70, 3), factors(2, HEADS, 80, 3), gradients=True)
    x, y = factors(70, 3, dtype=torch.bfloat16), factors(80, 3)
    expect_biased(x, y, gradients=True, kv_heads=kv_heads)


def test_products_are_as_exact_as_those_of_float32():
    expect_exact(32, "triton")


X, Y = np.random.default_rng(5).normal(size=(2, HEADS, 90)).astype(np.float32)
BIASES = {
    "inside of a softcap": lambda s, b, h, q, kv: (
        5.0 * fx.tanh((s - X[h, q] * Y[0, kv] + Y[1, kv]) / 5.0)
    ),
    "beside alibi": lambda s, b, h, q, kv: s + 0.3 * (kv - q) + X[0, q] * Y[h, kv],
}


@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("kv_heads", [1, HEADS])
@pytest.mark.parametrize("scale", [None, -0.3, 0.0])
def test_products_in_other_scores(name, kv_heads, scale):
    bias = fx.score_mod(BIASES[name])
    expect(None, bias, kv_heads=kv_heads, dtype=torch.float16, scale=scale)
    expect_gradients(None, bias, kv_heads=kv_heads, dtype=torch.float16, scale=scale)


def test_products_of_what_is_written_as_positions():
    """ALiBi as factors: the products are a hundred times their sum."""
    at = torch.arange(128.0, device=DEVICE)
    ones = torch.ones_like(at)
    expect_biased(torch.stack([-0.5 * at, ones], 1), torch.stack([ones, 0.5 * at], 1))


@pytest.mark.parametrize("kv_len", [90, 128])
def test_infinite_numbers_are_multiplied_as_they_are_written(kv_len):
    """A row of 0.5 and keys of 0 or -inf: no pair of such a key counts, and no other is NaN.

    With a scale of 0.25 the second part of a row's number is 0, which nothing infinite may meet.
    """
    pad = np.zeros(kv_len, np.float32)
    pad[50:70] = -np.inf
    row = np.full(70, 0.5, np.float32)
    added = fx.score_mod(lambda s, b, h, q, kv: s + row[q] * pad[kv])
    capped = fx.score_mod(lambda s, b, h, q, kv: 9.0 * fx.tanh((s + row[q] * pad[kv]) / 9.0))
    for score in (added, capped):
        options = {"q_len": 70, "kv_len": kv_len, "dtype": torch.float16, "scale": 0.25}
        expect(None, score, **options)
        expect_gradients(None, score, **options)


def test_which_calls_take_products():
    score = stdlib.lowrank_bias(factors(64, 2), factors(64, 2))
    plain = bound(score)
    taken = low_rank.with_products(plain, 0.1, torch.float16, squares=True)
    assert taken.score is None and len(taken.products) == 2
    assert low_rank.with_products(plain, 0.1, torch.float32, squares=True) is plain
    assert low_rank.with_products(plain, 0.0, torch.float16, squares=True) is plain
    learned = bound(score, tuple(bind.captured(score.program)))
    assert low_rank.with_products(learned, 0.1, torch.float16, squares=True) is learned


@pytest.mark.parametrize(
    ("rank", "learned", "dtype", "told"),
    [
        (2, False, torch.float16, "12 columns of matrices in bfloat16, used forward and backward"),
        (2, True, torch.float16, "used forward; not backward: x is learned"),
        (17, False, torch.float16, "not used: its matrices have 112 columns, and kernels take 96"),
        (2, False, torch.float32, "not used: torch.float32 keeps the score as it is written"),
    ],
)
def test_what_a_call_of_products_tells(rank, learned, dtype, told):
    q, k, v = (torch.randn(1, HEADS, 64, 32, dtype=dtype, device=DEVICE) for _ in range(3))
    x = factors(64, rank).requires_grad_(learned)
    score = stdlib.lowrank_bias(x, factors(64, rank))
    text = fx.explain(q, k, v, score=score, backend="triton")
    assert told in text and ("  factors: triton" in text) == ("used forward" in told)


def test_what_a_call_tells():
    q, k, v = (torch.randn(1, HEADS, 64, 32, dtype=torch.float16, device=DEVICE) for _ in range(3))
    told = fx.explain(q, k, v, score=SCORES["alibi"](), backend="triton")
    assert "has rank 2 in q and kv; used forward, for 16-bit inputs" in told
    told = fx.explain(q.float(), k.float(), v.float(), score=SCORES["alibi"](), backend="triton")
    assert "not in this call: torch.float32 keeps the score as it is written" in told
