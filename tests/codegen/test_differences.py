"""Scores with tables of q - kv in generated kernels, beside the oracle and the score as written."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis.differences import DifferenceTable
from flexdsl.codegen import Phase
from flexdsl.mod import Mod
from flexdsl.runtime import bind, differences, launch
from tests.codegen.oracle import DEVICE, DTYPES, error, expect, expect_gradients
from tests.codegen.variants import CAUSAL, HEADS

TABLE = np.random.default_rng(2).normal(size=(HEADS, 30)).astype(np.float32)
BUCKETS = np.minimum(np.arange(200) // 9, 14)
REACH = 3


def mod(score) -> Mod:
    return fx.score_mod(score)


SCORES = {
    "waves": stdlib.sandwich(HEADS, 26),
    "decays": mod(lambda s, b, h, q, kv: s * (1.0 + fx.tanh(-0.1 * (h + 1.0) * abs(q - kv)))),
    "buckets": stdlib.t5_bias(TABLE.T[:28]),
    "two tables": mod(
        lambda s, b, h, q, kv: fx.cos(0.1 * (kv - q)) * s + fx.tanh(-0.1 * (h + b) * abs(q - kv))
    ),
    "an index beside the key's": mod(
        lambda s, b, h, q, kv: (
            s + TABLE[h, BUCKETS[fx.minimum(abs(q - kv), 199)] * 3 // 2 + kv % REACH]
        )
    ),
    "inside of a choice": mod(
        lambda s, b, h, q, kv: s + 1.0 / (1.0 + abs(q - kv) * abs(q - kv)) if q >= kv else s - h
    ),
}
WINDOW = fx.mask_mod(lambda b, h, q, kv: q - kv >= 0 and q - kv < 40)


@pytest.fixture
def kernels(monkeypatch):
    """The kernels that are generated from now on, by phase, language and what they are of."""
    found = {}
    monkeypatch.setattr(launch, "_KERNELS", found)
    return found


def phases(kernels) -> set[Phase]:
    return {key[0] for key in kernels}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_forward_pass(name, dtype, kernels):
    expect(CAUSAL, SCORES[name], dtype=dtype, batch=2, kv_heads=2)
    assert phases(kernels) == {Phase.DIFFERENCES, Phase.FORWARD}


@pytest.mark.parametrize("name", SCORES)
def test_other_lengths_and_offsets(name):
    expect(None, SCORES[name], q_len=100, kv_len=40)
    expect(CAUSAL, SCORES[name], q_len=33, kv_len=130, q_offset=97)


@pytest.mark.parametrize("name", SCORES)
def test_the_backward_pass(name, kernels):
    expect_gradients(CAUSAL, SCORES[name], batch=2, kv_heads=2)
    assert {Phase.DIFFERENCES, Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY} < phases(kernels)


@pytest.mark.parametrize("name", SCORES)
def test_the_numbers_are_those_of_the_score_as_written(name, monkeypatch):
    inputs = torch.randn(3, 1, HEADS, 70, 16, generator=torch.Generator().manual_seed(0))
    q, k, v = inputs.to(DEVICE)

    def run():
        options = {"mask": CAUSAL, "score": SCORES[name], "return_lse": True, "backend": "triton"}
        return fx.attention(q, k, v, **options)

    loaded = run()
    monkeypatch.setattr(differences, "FEWEST_PAIRS", 1 << 30)
    bind.forget()
    for a, b in zip(loaded, run(), strict=True):
        # A GPU fuses a product that is written in place with the sum around it.
        assert torch.equal(a, b) if DEVICE == "cpu" else torch.allclose(a, b, atol=1e-6)


def learned(table: torch.Tensor) -> Mod:
    """Buckets by logarithms, as models write them, and a table of waves beside."""

    def score(s, b, h, q, kv):
        bucket = fx.minimum(math.floor(4.0 * fx.log(1.0 + abs(q - kv))), 15)
        return s + table[h, bucket] + fx.cos(0.3 * (q - kv))

    return fx.score_mod(score)


def test_gradients_of_what_a_table_finds_the_place_of(kernels):
    generator = torch.Generator().manual_seed(5)
    q, k, v, d_out = torch.randn(4, 1, HEADS, 40, 16, generator=generator)
    table = torch.randn(HEADS, 16, generator=generator)
    on_device = [x.to(DEVICE).requires_grad_() for x in (q, k, v, table)]
    exact = [x.double().requires_grad_() for x in (q, k, v, table)]
    gradients = []
    for inputs, backend in ((on_device, "triton"), (exact, "reference")):
        q, k, v, t = inputs
        out = fx.attention(q, k, v, mask=CAUSAL, score=learned(t), backend=backend)
        gradients.append(torch.autograd.grad(out, inputs, d_out.to(out)))
    for a, b in zip(*gradients, strict=True):
        assert error(a, b) < 5e-6
    parts = [part for key in kernels if key[0] is Phase.BACKWARD_DIAGONAL for part in key]
    tables = [x for x in parts if isinstance(x, tuple) and x and isinstance(x[0], DifferenceTable)]
    assert [len(found) for found in tables] == [2]


def test_tensors_and_numbers_may_change(kernels):
    slopes = torch.tensor([0.1, 0.2, 0.3, 0.4], device=DEVICE)
    score = mod(lambda s, b, h, q, kv: s + fx.cos(slopes[h] * (q - kv)))
    expect(CAUSAL, score)
    slopes.mul_(3.0)
    expect(CAUSAL, score)
    count = len(kernels)
    for n in (40, 75, 90):
        expect(CAUSAL, score, q_len=n, kv_len=n + 7)
    assert len(kernels) == count == 2


def test_decoding_has_no_table(kernels):
    expect(CAUSAL, SCORES["waves"], q_len=1, kv_len=90, q_offset=89)
    assert phases(kernels) == {Phase.FORWARD}


def bound(score: Mod, q_len: int = 64, kv_len: int = 64) -> bind.Bound:
    program = bind.with_tensors(score.program, torch.device(DEVICE))
    return bind.bind(None, program, bind.Lengths(2, HEADS, q_len, kv_len, 3), (0, 0))


def test_which_calls_have_tables():
    plain = bound(SCORES["decays"])
    found = differences.with_tables(plain)
    assert found.score_values["zero_at"] == 512 + 60
    assert found.score_values["of_difference_0"].shape == (HEADS, 127 + 1024 + 1)
    for lengths in ((8, 10_000), (1, 1), (10, 30)):
        few = bound(SCORES["decays"], *lengths)
        assert differences.with_tables(few) is few
    assert differences.with_tables(bound(SCORES["decays"], 9, 10_000)).tables


@pytest.mark.parametrize(
    ("score", "q_len", "told"),
    [
        ("decays", 64, "1 tanh once for each difference in place of each pair, forward and"),
        ("decays", 1, "not in this call: a head has 64 pairs and 64 differences, and a table pays"),
    ],
)
def test_what_a_call_tells(score, q_len, told):
    q = torch.randn(1, HEADS, q_len, 32, device=DEVICE)
    k, v = torch.randn(2, 1, HEADS, 64, 32, device=DEVICE)
    text = fx.explain(q, k, v, score=SCORES[score], backend="triton")
    assert told in text and ("  differences: triton" in text) == ("forward and" in told)


def test_what_a_call_that_learns_tells():
    q, k, v = torch.randn(3, 1, HEADS, 64, 32, device=DEVICE)
    table = torch.randn(HEADS, 16, device=DEVICE, requires_grad=True)
    text = fx.explain(q, k, v, score=learned(table), backend="triton")
    assert (
        "1 logarithm and 1 load once for each difference in place of each pair, forward; " in text
    )
    assert "not backward: table is learned" in text
    assert (
        "a table of q - kv: 1 logarithm once for each difference in place of each pair, b" in text
    )


FLOATS = st.recursive(
    st.sampled_from(
        [
            *("(q - kv)", "(3 * kv - 3 * q)", "h", "0.5", "TABLE[h, kv % 30]", "score"),
            "TABLE[h, fx.minimum(abs(q - kv) * 3 // 2, 29)]",
        ]
    ),
    lambda below: st.one_of(
        st.tuples(below, st.sampled_from("+-*"), below).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(st.sampled_from(["fx.cos", "fx.tanh"]), below).map(lambda p: f"{p[0]}({p[1]})"),
        st.tuples(below, below, below).map(lambda p: f"fx.where({p[0]} <= {p[1]}, {p[2]}, 1.0)"),
    ),
    max_leaves=6,
)


@given(FLOATS)
@settings(max_examples=12)
def test_random_scores(text):
    names = {"fx": fx, "TABLE": TABLE}
    score = eval(f"lambda score, b, h, q, kv: score + 0.1 * fx.tanh(1e-2 * {text})", names)
    expect(CAUSAL, fx.score_mod(score), q_len=33, kv_len=36, head_dim=16, value_dim=16)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("lengths", [(130, 390, 260), (257, 129, 0), (300, 200, 0), (70, 90, 500)])
def test_hopper_kernels(name, lengths):
    """Under a window, the last rows of the third have no key, and none has of the fourth."""
    q_len, kv_len, q_offset = lengths
    options = {"q_len": q_len, "kv_len": kv_len, "q_offset": q_offset, "backend": "hopper"}
    options |= {"kv_heads": 2, "dtype": torch.float16}
    for mask in (CAUSAL, WINDOW):
        for dim in (64, 96, 128):
            dims = {"head_dim": dim, "value_dim": dim}
            expect(mask, SCORES[name], **options, **dims)
            if q_offset < kv_len:
                expect_gradients(mask, SCORES[name], **options, **dims)
