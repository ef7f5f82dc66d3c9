"""Calls of attention for tests: tensors, masks and scores by name, and comparison."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import flexdsl as fx
from flexdsl.runtime.reference import reference

DOCUMENT = torch.arange(64) // 7
SEEN = torch.arange(3 * 64).reshape(3, 64) % 5 != 0

MASKS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "causal": lambda b, h, q, kv: q >= kv,
    "window": lambda b, h, q, kv: q >= kv and q - kv < 9,
    "window of each head": lambda b, h, q, kv: 0 <= q - kv < 4 + 5 * h,
    "documents": lambda b, h, q, kv: DOCUMENT[q] == DOCUMENT[kv] and q >= kv,
    "padding of each batch": lambda b, h, q, kv: SEEN[b, kv],
    "batch and head": lambda b, h, q, kv: (q + kv + b) % (h + 2) == 0,
    "dilated": lambda b, h, q, kv: (q - kv) % 3 == 0,
    "empty rows": lambda b, h, q, kv: kv < q - 20 or (q == 5 and kv == 7),
    "nothing": lambda b, h, q, kv: q < 0,
}

SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.3, 0.2])
BIAS = torch.linspace(-1, 1, 129)

SCORES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "softcap": lambda score, b, h, q, kv: 2.0 * fx.tanh(score / 2.0),
    "temperature": lambda score, b, h, q, kv: score * (1.0 + 0.5 * h + b),
    "alibi": lambda score, b, h, q, kv: score + SLOPES[h] * (kv - q),
    "bias": lambda score, b, h, q, kv: score + BIAS[q - kv + 64],
    "masked": lambda score, b, h, q, kv: fx.where(kv % 4 == 1, score, -math.inf),
    "constant": lambda score, b, h, q, kv: 0.25 * kv,
}


@dataclass(frozen=True)
class Shape:
    """[batch, heads, kv_heads, q_len, kv_len, dim, v_dim]."""

    batch: int = 1
    heads: int = 2
    kv_heads: int = 2
    q_len: int = 33
    kv_len: int = 33
    dim: int = 16
    v_dim: int = 16

    def tensors(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = (
            (self.batch, self.heads, self.q_len, self.dim),
            (self.batch, self.kv_heads, self.kv_len, self.dim),
            (self.batch, self.kv_heads, self.kv_len, self.v_dim),
        )
        return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def oracle(q: Tensor, k: Tensor, v: Tensor, **call: Any) -> tuple[Tensor, Tensor]:
    """The reference on the functions themselves: no expression, no plan, no executor.

    A function that loads from tensors gives tensors; the oracle wants numbers.
    """
    for name in ("mask", "score"):
        if call.get(name) is not None:
            call[name] = _plain(call[name])
    return reference(q, k, v, **call)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    def plain(*args: Any) -> Any:
        value = function(*args)
        return value.item() if isinstance(value, Tensor) else value

    return plain


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal within `tolerance`; infinities in the same places; never NaN."""
    assert found.shape == expected.shape
    assert not found.isnan().any()
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)
