"""Long sums as loops, and the sines and cosines in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.codegen import KernelSpec, Language, Phase
from flexdsl.codegen.rolled import NUMBER, rolled_sums
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.mod import Mod
from tests.codegen.oracle import expect, expect_gradients
from tests.codegen.variants import HEADS

NUMBERS = [0.5**n for n in range(20)]


def waves(numbers: list[float]) -> Mod:
    def score(s, b, h, q, kv):
        total = 0.0
        for number in numbers:
            total = total + fx.sin((q - kv) * number)
        return s + 0.25 * total

    return fx.score_mod(score)


def test_a_long_sum_is_a_first_part_and_a_loop() -> None:
    ((node, rolled),) = rolled_sums([waves(NUMBERS).expr]).items()
    assert repr(rolled.before) == "sin(q - kv)"  # a factor of 1 is gone, so this term is unlike
    assert (
        repr(rolled.term) == "sin((q - kv) * number)" and NUMBER.variables <= rolled.term.variables
    )
    assert rolled.numbers == tuple(NUMBERS[1:]) and node.variables == {"q", "kv"}


def test_the_score_can_be_what_terms_are_added_to() -> None:
    def score(s, b, h, q, kv):
        for number in NUMBERS[1:]:
            s = s + fx.cos((q - kv) * number)
        return s

    (rolled,) = rolled_sums([fx.score_mod(score).expr]).values()
    assert repr(rolled.before) == "score" and rolled.numbers == tuple(NUMBERS[1:])


def test_what_is_no_loop() -> None:
    table = torch.zeros(HEADS)
    for mod in (
        waves(NUMBERS[:8]),
        stdlib.alibi(HEADS),
        fx.score_mod(lambda s, b, h, q, kv: s + table[h] + (kv + 0.5)),
        fx.score_mod(lambda s, b, h, q, kv: s + fx.exp(0.5 * q) + fx.exp(0.25 * kv)),
    ):
        assert rolled_sums([mod.expr]) == {}


@pytest.mark.parametrize("language", Language)
def test_the_text_has_one_term(language: Language) -> None:
    spec = KernelSpec(None, waves(NUMBERS).program, None, 64, 64)
    text = GENERATORS[Phase.FORWARD, language](spec).source
    assert text.count("= sin(") == 4 and text.count("+= sin(") == 2  # two kinds of tiles


def test_gradients_and_values() -> None:
    for score in (waves(NUMBERS), stdlib.sandwich(HEADS, 40)):
        expect(stdlib.causal(), score, dtype=torch.float16)
        expect(stdlib.causal(), score)
        expect_gradients(stdlib.causal(), score)


@pytest.mark.parametrize("function", ["sin", "cos"])
@pytest.mark.parametrize("scale", [1.0, 0.001, 37.0, -911.0])
def test_waves_are_right_far_from_zero(function: str, scale: float) -> None:
    """The logsumexp of a row with one key is its score."""
    wave = getattr(fx, function)
    score = fx.score_mod(lambda s, b, h, q, kv: 0.0 * s + wave(q * scale + 0.125))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v = (torch.zeros(1, 1, n, 16, device=device) for n in (300, 1, 1))
    _, lse = fx.attention(q, k, v, score=score, backend="triton", return_lse=True)
    angles = np.arange(300, dtype=np.float32) * np.float32(scale) + np.float32(0.125)
    wanted = getattr(np, function)(angles.astype(np.float64))
    # The interpreter multiplies and adds with two roundings, which a GPU does with one.
    tolerance = 1e-6 if device == "cuda" else 1e-6 + 1e-9 * abs(scale) * 300
    assert np.abs(lse.cpu().numpy()[0, 0] - wanted).max() < tolerance
    assert math.isfinite(float(lse.abs().max()))


@pytest.mark.gpu
def test_on_hopper() -> None:
    dims = {"head_dim": 128, "value_dim": 128, "dtype": torch.float16, "backend": "hopper"}
    for score in (waves(NUMBERS), stdlib.sandwich(HEADS)):
        expect(stdlib.causal(), score, q_len=300, kv_len=300, **dims)
        expect_gradients(stdlib.causal(), score, q_len=300, kv_len=300, **dims)
