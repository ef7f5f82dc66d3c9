"""Gradients of what rows learn do not carry the rounding of O, whatever it is multiplied by.

Beside float64 autograd through dense torch, of inputs in 16 bits. By delta as it is made of such an
O, slopes of distances would be up to a fifth of themselves away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import flexdsl as fx
from flexdsl import stdlib
from tests.codegen.oracle import DEVICE, error

HEADS, LENGTH, DIM = 2, 100, 64
SLOPES = torch.tensor([0.5, 0.125])
ROWS = torch.linspace(-0.2, 0.3, LENGTH)


def late(b: int, h: int, q: int, kv: int) -> Any:
    """The first rows have no key."""
    return (q - kv >= 20) & (q - kv < 70)


Learned = tuple[Tensor, Callable[[Any], Any], Callable[[Tensor, Tensor, Tensor], Tensor]]
# What is learned, a score of it, and the same one of tensors: scores, learned numbers, distances.
SCORES: dict[str, Learned] = {
    "slopes": (
        SLOPES,
        lambda t: lambda s, b, h, q, kv: s + t[h] * (kv - q),
        lambda s, t, far: s + t[:, None, None] * far,
    ),
    "slopes of rows": (
        ROWS,
        lambda t: lambda s, b, h, q, kv: s + t[q] * (kv - q),
        lambda s, t, far: s + t[:, None] * far,
    ),
    "temperatures and slopes": (
        SLOPES,
        lambda t: lambda s, b, h, q, kv: s / t[h] + t[h] * (kv - q),
        lambda s, t, far: s / t[:, None, None] + t[:, None, None] * far,
    ),
    # It leaves all weights as they are, so that the gradient is that of the logsumexp alone.
    "numbers of rows": (
        ROWS,
        lambda t: lambda s, b, h, q, kv: s + t[q],
        lambda s, t, far: s + t[:, None],
    ),
}
MASKS = {"none": None, "causal": stdlib.causal(), "late": fx.mask_mod(late)}


def dense(mask: fx.Mod | None) -> Tensor:
    """The mask pair by pair."""
    n = range(LENGTH)
    return torch.tensor([[mask is None or bool(mask(0, 0, q, kv)) for kv in n] for q in n])


@pytest.mark.parametrize("backend", ["triton", "cpu"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", SCORES)
def test_gradients_of_what_rows_learn(name: str, mask: str, backend: str) -> None:
    numbers, make, of_tensors = SCORES[name]
    device = DEVICE if backend == "triton" else "cpu"
    generator = torch.Generator().manual_seed(len(name) + len(mask))
    q, k, v, d_out = torch.randn(4, 1, HEADS, LENGTH, DIM, generator=generator).half()
    d_lse = torch.randn(1, HEADS, LENGTH, generator=generator)
    allowed = dense(MASKS[mask])
    empty = ~allowed.any(1)

    learned = numbers.clone().to(device).requires_grad_()
    inputs = [x.to(device).requires_grad_() for x in (q, k, v)]
    out, lse = fx.attention(
        *inputs,
        mask=MASKS[mask],
        score=fx.score_mod(make(learned)),
        return_lse=True,
        backend=backend,
    )
    # Nothing comes of what an empty row gets back.
    incoming = [d_out, d_lse.masked_fill(empty, torch.nan)]
    (found,) = torch.autograd.grad((out, lse), [learned], [x.to(device) for x in incoming])

    exact = numbers.double().requires_grad_()
    far = torch.arange(LENGTH)[None, :] - torch.arange(LENGTH)[:, None]
    scores = of_tensors(q.double() @ k.double().mT * DIM**-0.5, exact, far)
    scores = scores.masked_fill(~allowed, -1e9)[:, :, ~empty]
    weighted = (scores.softmax(-1) @ v.double() * d_out.double()[:, :, ~empty]).sum()
    loss = weighted + (scores.logsumexp(-1) * d_lse.double()[:, :, ~empty]).sum()
    (wanted,) = torch.autograd.grad(loss, [exact])
    assert error(found.cpu(), wanted) < 2e-5
