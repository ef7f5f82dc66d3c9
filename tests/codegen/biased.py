"""Attention under a bias of low rank beside dense attention in float64, whose bias is a product.

For tensors too large for the oracle that asks a function about every pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.runtime.reference import dense_attention
from tests.codegen.oracle import DEVICE, TOLERANCE, error
from tests.codegen.variants import CAUSAL, HEADS


def inputs(
    q_len: int, kv_len: int, head_dim: int, value_dim: int, kv_heads: int, dtype: torch.dtype
) -> list[Tensor]:
    """q, k and v of two batches, and a gradient of the output."""
    generator = torch.Generator().manual_seed(q_len + kv_len + head_dim)
    shapes = (HEADS, q_len, head_dim), (kv_heads, kv_len, head_dim), (kv_heads, kv_len, value_dim)
    return [
        torch.randn(2, *shape, generator=generator).to(DEVICE, dtype)
        for shape in (*shapes, (HEADS, q_len, value_dim))
    ]


def dense(q: Tensor, k: Tensor, v: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Output and lse in float64; causal."""
    bias = x.double() @ y.double().transpose(-1, -2)
    allowed = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    return dense_attention(q, k, v, allowed=allowed, modify=lambda scores: scores + bias)


def expect_biased(
    x: Tensor,
    y: Tensor,
    *,
    head_dim: int = 32,
    value_dim: int = 32,
    kv_heads: int = HEADS,
    dtype: torch.dtype = torch.float16,
    backend: str = "triton",
    gradients: bool = False,
) -> None:
    """Compare the kernels of `lowrank_bias(x, y)` with dense attention, as `oracle.expect` does."""
    *given, d_out = inputs(x.shape[-2], y.shape[-2], head_dim, value_dim, kv_heads, dtype)
    given = [t.requires_grad_(gradients) for t in given]
    score = stdlib.lowrank_bias(x, y)
    out, lse = fx.attention(*given, mask=CAUSAL, score=score, return_lse=True, backend=backend)
    exact = [t.detach().double().requires_grad_(gradients) for t in given]
    wanted, wanted_lse = dense(*exact, x, y)
    with torch.no_grad():
        q, k, v = given
        k, v = (t.repeat_interleave(HEADS // kv_heads, 1) for t in (k, v))
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        scores = (scores + x.float() @ y.float().transpose(-1, -2)).to(dtype)
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
        eager, eager_lse = scores.softmax(-1) @ v, scores.float().logsumexp(-1)
    want = wanted.detach().cpu()
    assert error(out.detach(), want) <= 1.1 * error(eager, want) + 1e-3
    want = wanted_lse.detach().cpu()
    assert error(lse.detach(), want) <= 1.1 * error(eager_lse, want) + 5e-7
    if gradients:
        found = torch.autograd.grad(out, given, d_out)
        right = torch.autograd.grad(wanted, exact, d_out.double())
        for name, a, b in zip("qkv", found, right, strict=True):
            assert error(a, b.cpu()) <= TOLERANCE[dtype], name


def expect_exact(dim: int, backend: str) -> None:
    """The lse is as exact as float32 products make it: sums of two parts would be wrong by 0.03."""
    x, y = torch.randn(2, 70, 2, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    q, k, v, _ = inputs(70, 70, dim, dim, HEADS, torch.float16)
    score = stdlib.lowrank_bias(1e3 * x, y)
    _, found = fx.attention(q, k, v, mask=CAUSAL, score=score, return_lse=True, backend=backend)
    _, wanted = dense(q, k, v, 1e3 * x, y)
    assert (found - wanted).abs().max() < 0.005
