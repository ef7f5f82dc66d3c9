"""Derivatives of a score that are infinite, or no number, at pairs that its mask excludes.

Their weight is 0 there, and so is what they add to a gradient. What is wanted comes from a score
that is the same at pairs that count, and finite at all others.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.analysis.derivative import derivatives
from flexdsl.analysis.finite import is_finite
from flexdsl.codegen import Phase
from flexdsl.ir import var
from flexdsl.runtime import triton_backward
from tests.codegen.oracle import DEVICE, error, gradients
from tests.codegen.test_query_sums import WITHOUT_GPU
from tests.codegen.text_on_numbers import OnNumbers, bound_of
from tests.codegen.variants import HEADS, VARIANTS, Variant

LENGTH = 150
PADDING = torch.arange(LENGTH) >= 140
INFINITE = torch.linspace(0.2, 1.0, LENGTH).masked_fill(PADDING, torch.inf).to(DEVICE)
FINITE = INFINITE.masked_fill(INFINITE.isinf(), 0.0)

causal = fx.mask_mod(lambda b, h, q, kv: q >= kv)
windows = fx.mask_mod(lambda b, h, q, kv: (q >= kv) & (q // 40 % 2 == kv // 20 % 2))
padded = fx.mask_mod(lambda b, h, q, kv: kv < 140)
by_heads = fx.mask_mod(lambda b, h, q, kv: (q >= kv) & ((q - kv) % (h + 2) == 0))


def steep(s: Any, b: int, h: int, q: int, kv: int) -> Any:
    return s * fx.exp2(9.0 * (kv - q))


def finite_steep(s: Any, b: int, h: int, q: int, kv: int) -> Any:
    return s * fx.exp2(-9.0 * abs(kv - q))


# A mask, a score with such derivatives, and the same one with finite ones.
CASES: dict[str, tuple[fx.Mod, Any, Any]] = {
    "exponential": (
        causal,
        lambda s, b, h, q, kv: s * fx.exp(4.0 * (kv - q)),
        lambda s, b, h, q, kv: s * fx.exp(-4.0 * abs(kv - q)),
    ),
    "of a window": (windows, steep, finite_steep),
    "of heads": (by_heads, steep, finite_steep),
    "quotient": (
        causal,
        lambda s, b, h, q, kv: s / (q - kv + 1.0),
        lambda s, b, h, q, kv: s / (abs(q - kv) + 1.0),
    ),
    "padding": (
        padded,
        lambda s, b, h, q, kv: s * INFINITE[kv],
        lambda s, b, h, q, kv: s * FINITE[kv],
    ),
}


def inputs(dim: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """q, k and v, and a gradient of the output."""
    generator = torch.Generator().manual_seed(dim)
    drawn = torch.randn(4, 1, HEADS, LENGTH, dim, generator=generator).half().to(DEVICE)
    return [*drawn[:3]], drawn[3]


def expect(found: Any, mask: fx.Mod, score: Any, given: list[torch.Tensor], d_out: Any) -> None:
    exact, none = [x.double() for x in given], torch.zeros(given[0].shape[:3]).double()
    incoming = [d_out.double(), none.to(DEVICE)]
    wanted = gradients(mask, fx.score_mod(score), exact, incoming, "reference")
    for of, x, y in zip("qkv", found, wanted, strict=True):
        assert error(x, y) < 2e-3, (of, error(x, y))


@pytest.mark.parametrize("name", CASES)
def test_portable_kernels(name: str) -> None:
    mask, infinite, finite = CASES[name]
    given, d_out = inputs(32)
    no_lse = torch.zeros(1, HEADS, LENGTH, device=DEVICE)
    found = gradients(mask, fx.score_mod(infinite), given, [d_out, no_lse], "triton")
    expect(found, mask, finite, given, d_out)


@WITHOUT_GPU
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dim", [128, 256])
def test_kernels_for_hopper(name: str, dim: int) -> None:
    mask, infinite, finite = CASES[name]
    given, d_out = inputs(dim)
    bound, scale = bound_of(Variant(mask, fx.score_mod(infinite)), given, 0), dim**-0.5
    mods = {"mask": mask, "score": fx.score_mod(finite), "return_lse": True}
    out, lse = fx.attention(*(x.double() for x in given), **mods, backend="reference")
    saved = *given, out.half(), d_out, lse.float()
    run = triton_backward.backward(OnNumbers(Phase.BACKWARD), bound, scale, *saved)
    expect(run(*saved), mask, finite, given, d_out)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_on_a_gpu(name: str, dim: int) -> None:
    mask, infinite, finite = CASES[name]
    given, d_out = inputs(dim)
    no_lse = torch.zeros(1, HEADS, LENGTH, device=DEVICE)
    found = gradients(mask, fx.score_mod(infinite), given, [d_out, no_lse], "auto")
    expect(found, mask, finite, given, d_out)


def test_a_learned_capture() -> None:
    """Its derivative is the score's, times what is infinite."""
    given, d_out = inputs(32)
    gradients_of = []
    for backend, sign in (("triton", lambda x: x), ("reference", lambda x: -abs(x))):
        scales = torch.linspace(0.5, 1.0, HEADS, device=DEVICE).requires_grad_()
        score = fx.score_mod(lambda s, b, h, q, kv: s * scales[h] * fx.exp(4.0 * sign(kv - q)))  # noqa: B023
        tensors = [x if backend == "triton" else x.double() for x in given]
        out = fx.attention(*tensors, mask=causal, score=score, backend=backend)
        gradients_of += torch.autograd.grad(out, scales, d_out.to(out.dtype))
    assert error(*gradients_of) < 2e-3


@pytest.mark.parametrize("name", ["softcap", "alibi", "causal", "relative_bias"])
def test_what_is_finite_costs_nothing(name: str) -> None:
    score = VARIANTS[name].score
    assert score is None or is_finite(derivatives(score.program.expr)[var("score")])
