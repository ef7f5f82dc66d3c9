"""The Hopper kernels against the float64 oracle on a Hopper GPU, and what they do not cover."""

from __future__ import annotations

import pytest
import torch

import flexdsl as fx
from flexdsl.codegen import reason_not_covered
from flexdsl.errors import BackendError
from tests.codegen.oracle import expect
from tests.codegen.variants import CAUSAL, HEADS, VARIANTS

HALVES = [torch.float16, torch.bfloat16]
DIMS = [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)]
LENGTHS = [(1, 300, 299), (128, 128, 0), (257, 129, 0), (96, 5, 0), (130, 390, 260), (70, 17, 90)]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str, dtype: torch.dtype) -> None:
    v = VARIANTS[name]
    for dim in (64, 128):
        dims = {"head_dim": dim, "value_dim": dim}
        expect(v.mask, v.score, **dims, dtype=dtype, backend="hopper")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["full", "causal", "sliding_window", "sinks", "per_head_window"])
@pytest.mark.parametrize(("q_len", "kv_len", "q_offset"), LENGTHS)
def test_lengths_and_offsets(name: str, q_len: int, kv_len: int, q_offset: int) -> None:
    lengths = {"q_len": q_len, "kv_len": kv_len, "q_offset": q_offset}
    expect(
        VARIANTS[name].mask,
        VARIANTS["softcap"].score,
        **lengths,
        batch=2,
        head_dim=64,
        value_dim=64,
        dtype=torch.float16,
        backend="hopper",
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("head_dim", "value_dim"), DIMS)
def test_head_dims_and_groups(head_dim: int, value_dim: int, dtype: torch.dtype) -> None:
    dims = {"head_dim": head_dim, "value_dim": value_dim, "dtype": dtype, "backend": "hopper"}
    for kv_heads in (1, HEADS):
        expect(CAUSAL, q_len=200, kv_len=230, q_offset=30, kv_heads=kv_heads, **dims)
        expect(VARIANTS["neighborhood"].mask, q_len=260, kv_len=260, kv_heads=kv_heads, **dims)


@pytest.mark.gpu
def test_fifty_runs_give_the_same_bits() -> None:
    q, k, v = (torch.randn(2, 8, 1000, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and (q - kv < 300 or kv < 70))
    first = fx.attention(q, k, v, mask=mask, backend="hopper")
    for _ in range(50):
        assert torch.equal(first, fx.attention(q, k, v, mask=mask, backend="hopper"))


@pytest.mark.gpu
def test_strided_inputs() -> None:
    options = {"device": "cuda", "dtype": torch.float16}
    q = torch.randn(2, 140, HEADS, 64, **options).transpose(1, 2)
    k = torch.randn(2, HEADS, 140, 128, **options)[..., ::2]
    v = torch.randn(1, 1, 140, 64, **options).expand(2, HEADS, 140, 64)
    out = fx.attention(q, k, v, mask=CAUSAL, backend="hopper")
    same = fx.attention(*(x.contiguous() for x in (q, k, v)), mask=CAUSAL, backend="hopper")
    assert torch.equal(out, same)


@pytest.mark.gpu
def test_what_is_not_covered_is_refused() -> None:
    q = torch.randn(1, 2, 64, 32, device="cuda", dtype=torch.float16)
    with pytest.raises(BackendError, match="64, 96, 128"):
        fx.attention(q, q, q, backend="hopper")
    with pytest.raises(BackendError, match="16-bit"):
        fx.attention(*(q.float(),) * 3, backend="hopper")


def test_needs_a_gpu() -> None:
    q = torch.randn(1, 2, 64, 64, dtype=torch.float16)
    with pytest.raises(BackendError, match=r"cannot run on tensors on cpu"):
        fx.attention(q, q, q, backend="hopper")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ((80, "bf16", 128, 128), "compute capability 9.0"),
        ((100, "bf16", 128, 128), "compute capability 9.0"),
        ((90, "fp32", 128, 128), "16-bit elements, not fp32"),
        ((90, "bf16", 80, 80), "192/128"),
    ],
)
def test_reasons(call: tuple[int, str, int, int], reason: str) -> None:
    assert reason in str(reason_not_covered(*call))
    assert reason_not_covered(90, "bf16", 192, 128) is None
