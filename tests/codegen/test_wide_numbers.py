"""Numbers past 32 bits written in a mod: kernels compute with 64 bits, as the reference does."""

from __future__ import annotations

import pytest
import torch

import flexdsl as fx
from flexdsl.codegen import KernelSpec, Language, Phase
from flexdsl.codegen.unbound import GENERATORS
from tests.codegen.oracle import expect, expect_gradients

MASKS = {
    "a sum": lambda b, h, q, kv: q >= kv or q + 3_000_000_000 == kv,
    "a bound": lambda b, h, q, kv: q - kv < 3_000_000_000 and q % 3 != kv % 3,
    "a product": lambda b, h, q, kv: (q * 3_000_000_000 + kv) % 7 != 0,
    "a negative one": lambda b, h, q, kv: (kv * -5_000_000_000 + q) // 1_000_000_007 % 2 == 0,
    "a hash": lambda b, h, q, kv: (q * 2654435761 ^ kv * 2246822519) % 1024 < 700,
    "powers of two": lambda b, h, q, kv: (q * 2**33 + kv) % 2**35 // 2**33 != kv % 4,
    "a power past positions": lambda b, h, q, kv: q // 2**40 == 0 and q % 2**40 >= kv,
    "the least of 32 bits": lambda b, h, q, kv: q - kv > -(2**31) and (q + kv) % 3 != 0,
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    mask = fx.mask_mod(MASKS[name])
    expect(mask, dtype=torch.float32)
    expect_gradients(mask)


def test_a_score() -> None:
    score = fx.score_mod(lambda s, b, h, q, kv: s + 1e-9 * ((q * 3_000_000_000 + kv) % 1_000_003))
    expect(None, score, dtype=torch.float32)


@pytest.mark.parametrize("language", list(Language))
def test_numbers_of_32_bits_stay_as_they_are(language: Language) -> None:
    mask = fx.mask_mod(lambda b, h, q, kv: (q + 2**31 - 1 - kv) % 5 != 0 and q * 2**31 >= kv)
    source = GENERATORS[Phase.FORWARD, language](KernelSpec(mask.program, None, None, 64, 64))
    assert f"to_tensor({2**31}).to" in source.source
    assert f"to_tensor({2**31 - 1})" not in source.source


@pytest.mark.gpu
@pytest.mark.parametrize("name", MASKS)
def test_on_hopper(name: str) -> None:
    dims = {"head_dim": 128, "value_dim": 128, "dtype": torch.float16, "backend": "hopper"}
    expect(fx.mask_mod(MASKS[name]), q_len=300, kv_len=300, **dims)
    expect_gradients(fx.mask_mod(MASKS[name]), q_len=300, kv_len=300, **dims)
