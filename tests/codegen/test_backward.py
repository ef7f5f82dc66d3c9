"""Gradients of every generated kernel against float64 autograd of the dense reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flexdsl as fx
from tests.codegen.oracle import DEVICE, DTYPES, expect_gradients, gradients
from tests.codegen.variants import CAUSAL, HEADS, VARIANTS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_golden_kernels(name: str, dtype: torch.dtype) -> None:
    v = VARIANTS[name]
    expect_gradients(v.mask, v.score, head_dim=v.head_dim, value_dim=v.value_dim, dtype=dtype)


@pytest.mark.parametrize(
    "name", ["causal", "sinks", "document", "packed", "packed_causal", "alibi", "per_head_window"]
)
@pytest.mark.parametrize(
    ("q_len", "kv_len", "q_offset"), [(1, 70, 69), (64, 64, 0), (33, 90, 57), (90, 33, 6)]
)
def test_lengths_and_offsets(name: str, q_len: int, kv_len: int, q_offset: int) -> None:
    v = VARIANTS[name]
    expect_gradients(v.mask, v.score, q_len=q_len, kv_len=kv_len, q_offset=q_offset, batch=2)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_heads(kv_heads: int) -> None:
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < 9 * (h + 1) + 5 * b)
    expect_gradients(mask, kv_heads=kv_heads, batch=2)
    expect_gradients(VARIANTS["document"].mask, VARIANTS["alibi"].score, kv_heads=kv_heads)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_heads_of_tables_in_orders_of_their_own(kv_heads: int) -> None:
    """Other keys have the most queries in each head, and other queries the most keys."""
    mask = fx.mask_mod(
        lambda b, h, q, kv: (q + kv) % 3 == 0 and (kv // 32 == h % 3 or q // 32 == (h + b) % 3)
    )
    expect_gradients(mask, kv_heads=kv_heads, batch=2, q_len=90, kv_len=90)


@pytest.mark.parametrize(
    ("head_dim", "value_dim"), [(16, 16), (20, 12), (96, 128), (192, 64), (256, 256)]
)
def test_head_dims(head_dim: int, value_dim: int) -> None:
    expect_gradients(CAUSAL, head_dim=head_dim, value_dim=value_dim)
    expect_gradients(CAUSAL, head_dim=head_dim, value_dim=value_dim, dtype=torch.float16)


@pytest.mark.parametrize("scale", [0.0, -0.4, 1.5])
def test_scale(scale: float) -> None:
    expect_gradients(CAUSAL, scale=scale)
    expect_gradients(CAUSAL, VARIANTS["softcap"].score, scale=scale)


SCORES: dict[str, Any] = {
    "squared": lambda s, b, h, q, kv: s * s,
    "silu": lambda s, b, h, q, kv: s * fx.sigmoid(s),
    "trigonometric": lambda s, b, h, q, kv: fx.sin(s) + fx.cos(s) * h,
    "head offset": lambda s, b, h, q, kv: s * 2.0**-1 + h - kv / 10,
    "of two kinds": lambda s, b, h, q, kv: s * 2 if q > kv else fx.tanh(s),
    "constant": lambda s, b, h, q, kv: 0.1 * kv,
}


@pytest.mark.parametrize("name", SCORES)
def test_scores(name: str) -> None:
    expect_gradients(CAUSAL, fx.score_mod(SCORES[name]))


def test_ten_runs_give_the_same_bits() -> None:
    q, k, v = (torch.randn(1, HEADS, 60, 32, device=DEVICE) for _ in range(3))
    incoming = [
        torch.randn(1, HEADS, 60, 32, device=DEVICE),
        torch.randn(1, HEADS, 60, device=DEVICE),
    ]
    mask, score = VARIANTS["document"].mask, VARIANTS["softcap"].score
    first = gradients(mask, score, [q, k, v], incoming, "triton")
    for _ in range(9):
        again = gradients(mask, score, [q, k, v], incoming, "triton")
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_second_derivative_is_refused() -> None:
    q = torch.randn(1, HEADS, 8, 16, device=DEVICE, requires_grad=True)
    out = fx.attention(q, q, q, mask=CAUSAL, backend="triton")
    (gradient,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(fx.errors.BackendError, match="second derivative"):
        torch.autograd.grad(gradient.sum(), q)
