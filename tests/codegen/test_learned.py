"""Gradients of captured tensors by the generated kernels, against float64 autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.analysis.gradient import Reduction, explain_gradients, reduction_of
from flexdsl.ir import Op, walk
from tests.codegen.oracle import DEVICE, error

B, H, Q, KV, DIM = 2, 4, 40, 50, 16
BUCKETS = abs(np.arange(-KV, Q + 1) // 7)
ROWS = np.arange(Q) // 3
FIRST = np.arange(Q) // 17 * 17

# The shape of what is learned, the score modification that learns it, and how it is added up.
CASES: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], Any], Reduction]] = {
    "temperature": ((), lambda t: lambda s, b, h, q, kv: s * t, Reduction.QUERY),
    "head": ((H,), lambda t: lambda s, b, h, q, kv: s * t[h], Reduction.QUERY),
    "batch and head": (
        (B, H),
        lambda t: lambda s, b, h, q, kv: s + fx.tanh(t[b, h] * s),
        Reduction.QUERY,
    ),
    "row": ((H, Q), lambda t: lambda s, b, h, q, kv: s * t[h, q], Reduction.QUERY),
    "table of rows": (
        (H, 14),
        lambda t: lambda s, b, h, q, kv: s * t[h, ROWS[q]],
        Reduction.QUERY,
    ),
    "key": ((KV,), lambda t: lambda s, b, h, q, kv: s + t[kv] * s, Reduction.KEY),
    "key of each head": ((H, KV), lambda t: lambda s, b, h, q, kv: s + t[h, kv], Reduction.KEY),
    "relative": (
        (H, Q + KV),
        lambda t: lambda s, b, h, q, kv: s + t[h, q - kv + KV],
        Reduction.DIAGONAL,
    ),
    "relative of each batch": (
        (B, Q + KV),
        lambda t: lambda s, b, h, q, kv: s * t[b, kv - q + Q],
        Reduction.DIAGONAL,
    ),
    "buckets": (
        (H, 9),
        lambda t: lambda s, b, h, q, kv: s + t[h, BUCKETS[q - kv + KV]],
        Reduction.DIAGONAL,
    ),
    "distance": (
        (50,),
        lambda t: lambda s, b, h, q, kv: s + t[abs(2 * kv - 2 * q) // 2],
        Reduction.DIAGONAL,
    ),
    "pair": ((Q, KV), lambda t: lambda s, b, h, q, kv: s + t[q, kv], Reduction.PAIR),
    "sum": ((Q + KV,), lambda t: lambda s, b, h, q, kv: s + t[q + kv], Reduction.PAIR),
}
MASKS: dict[str, Any] = {
    "none": None,
    "causal": lambda b, h, q, kv: q + 10 >= kv,
    "packed": lambda b, h, q, kv: fx.minimum(FIRST[q], q) <= kv and kv <= q,
    "stripes": lambda b, h, q, kv: (q // 4 + kv // 3) % 2 == 0,
}


def gradients(
    name: str, mask: str, backend: str, dtype: torch.dtype, device: str, kv_heads: int = H
) -> tuple[torch.Tensor, ...]:
    shape, make, _ = CASES[name]
    generator = torch.Generator().manual_seed(5)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype).requires_grad_()

    learned = draw(*shape)
    q, k, v = draw(B, H, Q, DIM), draw(B, kv_heads, KV, DIM), draw(B, kv_heads, KV, DIM)
    score = make(learned)
    out = fx.attention(q, k, v, mask=MASKS[mask], score=score, backend=backend)
    given = draw(*out.shape).detach()
    return torch.autograd.grad(out, (learned, q, k, v), given)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", CASES)
def test_against_float64(name: str, mask: str) -> None:
    found = gradients(name, mask, "triton", torch.float32, DEVICE)
    wanted = gradients(name, mask, "reference", torch.float64, "cpu")
    for mine, exact in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32 and error(mine, exact) < 5e-6


@pytest.mark.parametrize("name", ["head", "key", "relative", "pair"])
def test_grouped_heads(name: str) -> None:
    found = gradients(name, "causal", "triton", torch.float32, DEVICE, kv_heads=2)
    wanted = gradients(name, "causal", "reference", torch.float64, "cpu", kv_heads=2)
    assert all(error(a, b) < 5e-6 for a, b in zip(found, wanted, strict=True))


def test_one_tensor_loaded_twice() -> None:
    table = torch.randn(KV, device=DEVICE, requires_grad=True)
    q, k, v = (torch.randn(1, H, KV, DIM, device=DEVICE) for _ in range(3))

    def score(s, b, h, row, kv):
        return s + table[row] * table[kv] + table[0]

    (mine,) = torch.autograd.grad(fx.attention(q, k, v, score=score, backend="triton").sum(), table)
    exact = table.detach().cpu().double().requires_grad_()

    def same(s, b, h, row, kv):
        return s + exact[row] * exact[kv] + exact[0]

    inputs = [x.cpu().double() for x in (q, k, v)]
    out = fx.attention(*inputs, score=same, backend="reference")
    assert error(mine, torch.autograd.grad(out.sum(), exact)[0]) < 5e-6


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c[2] is not Reduction.PAIR])
def test_ten_runs_give_the_same_bits(name: str) -> None:
    runs = 10 if DEVICE == "cuda" else 2  # the interpreter has no order of its own to change
    first, *others = (
        gradients(name, "causal", "triton", torch.float32, DEVICE)[0] for _ in range(runs)
    )
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("name", CASES)
def test_how_it_is_added_up(name: str) -> None:
    shape, make, reduction = CASES[name]
    program = fx.score_mod(make(torch.zeros(shape))).program
    (load,) = (n for n in walk(program.expr) if n.op is Op.LOAD and n.type.value == "float")
    assert reduction_of(load) is reduction
    assert reduction.value in explain_gradients(program.expr)
