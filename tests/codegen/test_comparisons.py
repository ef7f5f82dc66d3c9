"""Turned comparisons: the same pairs, for all values that parameters can have in a kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.codegen import KernelSpec, Language, Phase
from flexdsl.codegen.comparisons import turn_comparisons
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.ir import evaluate
from tests.codegen.oracle import expect, expect_gradients
from tests.stdlib.samples import BATCH, HEADS, MASKS

WIDE = [7, 0, -3, 2**31 - 1, -(2**31), 2**40, -(2**40)]


def window(keys: int) -> fx.Mod:
    return fx.mask_mod(lambda b, h, q, kv: kv - q < keys and abs(q // 3 - kv // 3) <= keys)


@pytest.mark.parametrize("inner", ["q", "kv"])
@pytest.mark.parametrize("name", MASKS)
def test_the_same_pairs(name: str, inner: str) -> None:
    sample = MASKS[name]
    program = sample.make().program
    sizes = BATCH, HEADS, sample.q_len, sample.kv_len
    axes = np.meshgrid(*map(np.arange, sizes), indexing="ij", sparse=True)
    where = dict(zip(("b", "h", "q", "kv"), axes, strict=True))
    values = {n: np.asarray(v) for n, v in program.values.items()}
    found = evaluate(turn_comparisons(program.expr, inner).expr, where, values)
    assert np.array_equal(found, evaluate(program.expr, where, values))


def text_of(mask: fx.Mod, inner: str) -> str:
    return repr(turn_comparisons(mask.expr, inner).expr)


def test_what_moves_stands_alone() -> None:
    sliding = stdlib.sliding_window(9)
    assert text_of(sliding, "kv") == "q >= kv and kv > q - keys"
    assert text_of(sliding, "q") == "q >= kv and q < kv + keys"
    assert text_of(fx.mask_mod(lambda b, h, q, kv: q - kv < 3), "kv") == "kv > q - 3"
    assert text_of(fx.mask_mod(lambda b, h, q, kv: h >= kv - q), "kv") == "kv <= h + q"
    assert text_of(fx.mask_mod(lambda b, h, q, kv: abs(kv - q) < 3), "kv") == (
        "kv < q + 3 and kv > q - 3"
    )


def test_the_rest_stays_as_it_is() -> None:
    pairs = torch.zeros(8, 8, dtype=torch.int32)
    for mask in (
        fx.mask_mod(lambda b, h, q, kv: q >= kv),
        fx.mask_mod(lambda b, h, q, kv: q < 5 or kv - 2 < h),
        fx.mask_mod(lambda b, h, q, kv: pairs[q, kv] + q < kv),
        fx.mask_mod(lambda b, h, q, kv: abs(q - kv) > 3),
        fx.mask_mod(lambda b, h, q, kv: (q - kv) % 3 == 0),
    ):
        for inner in ("q", "kv"):
            assert turn_comparisons(mask.expr, inner).expr is mask.expr


def test_conditions_of_the_same_number_are_joined_first() -> None:
    text = text_of(stdlib.neighborhood((64, 64), 5), "kv")
    before, after = text.split("kv % 64", 1)
    assert before.count("kv // 64") == 2 and "kv // 64" not in after


@pytest.mark.parametrize("keys", WIDE)
def test_no_window_is_no_window(keys: int) -> None:
    """A sum with such a number has no 32 bits."""
    mask = window(keys)
    expect(mask, dtype=torch.float32)
    expect_gradients(mask)


def test_only_sums_with_parameters_are_held() -> None:
    def source(mask: fx.Mod) -> str:
        spec = KernelSpec(mask.program, None, None, 64, 64)
        return GENERATORS[Phase.FORWARD, Language.GLUON](spec).source

    held = source(stdlib.sliding_window(9))
    assert "def held_difference" in held and "kv > sub_q" in held
    plain = source(fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < h * 0 + 9))
    assert "held" not in plain and "sub_q = q - 9" in plain


@pytest.mark.gpu
@pytest.mark.parametrize("keys", WIDE)
def test_on_hopper(keys: int) -> None:
    dims = {"head_dim": 128, "value_dim": 128, "dtype": torch.float16, "backend": "hopper"}
    expect(window(keys), q_len=300, kv_len=300, **dims)
    expect_gradients(window(keys), q_len=300, kv_len=300, **dims)


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [(300, 300), (256, 256), (129, 383), (1, 129), (384, 1)])
def test_the_end_of_the_keys_on_hopper(lengths: tuple[int, int]) -> None:
    """Only tiles that reach over the end look at it."""
    dims = {"head_dim": 128, "value_dim": 128, "dtype": torch.bfloat16, "backend": "hopper"}
    masks = stdlib.dilated_window(40, 3), stdlib.prefix_lm(50), stdlib.block_table(_BLOCKS, 40)
    for mask in masks:
        expect(mask, q_len=lengths[0], kv_len=lengths[1], **dims)
        expect_gradients(mask, q_len=lengths[0], kv_len=lengths[1], **dims)


_BLOCKS = np.random.default_rng(3).random((10, 10)) < 0.5
