"""Scores computed from factors in generated kernels: as exact as eager attention of their dtype."""

from __future__ import annotations

import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.codegen import KernelSpec, Language, Phase
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.runtime import bind, low_rank
from tests.codegen.oracle import DEVICE, TOLERANCE, expect, gradients
from tests.codegen.variants import HEADS

SLOPES = torch.linspace(0.5, 0.02, HEADS, device=DEVICE)
SCORES = {
    "alibi": lambda: fx.score_mod(lambda s, b, h, q, kv: s + SLOPES[h] * (kv - q)),
    "sandwich": lambda: stdlib.sandwich(HEADS, 8),
    "exponential": lambda: fx.score_mod(lambda s, b, h, q, kv: s - fx.exp(0.02 * (kv - q))),
    "softcap of alibi": lambda: fx.score_mod(
        lambda s, b, h, q, kv: 5.0 * fx.tanh((s + 0.25 * (kv - q)) / 5.0)
    ),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("q_offset", [0, 100_000])
def test_the_forward_pass(name, q_offset):
    score = SCORES[name]()
    mask = fx.mask_mod(lambda b, h, q, kv: q - q_offset + 20 >= kv) if q_offset else stdlib.causal()
    expect(mask, score, dtype=torch.float16, q_offset=q_offset)


@pytest.mark.parametrize("name", ["alibi", "sandwich", "softcap of alibi"])
def test_the_backward_pass(name):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).half().to(DEVICE)

    inputs = [draw(1, HEADS, 70, 32), draw(1, HEADS, 90, 32), draw(1, HEADS, 90, 32)]
    incoming = [draw(1, HEADS, 70, 32), draw(1, HEADS, 70)]
    found = gradients(stdlib.causal(), SCORES[name](), inputs, incoming, "triton")
    wanted = gradients(
        stdlib.causal(),
        SCORES[name](),
        [x.cpu().double() for x in inputs],
        [x.cpu().double() for x in incoming],
        "reference",
    )
    for a, b in zip(found, wanted, strict=True):
        error = (a.cpu().double() - b).norm() / b.norm()
        assert error < TOLERANCE[torch.float16]


def bound(score, learned=()):
    lengths = bind.Lengths(1, HEADS, 64, 64, 0)
    program = bind.with_tensors(score.program, torch.device(DEVICE))
    return bind.bind(None, program, lengths, (0, 0), learned)


def test_which_kernels_compute_factors():
    score = SCORES["alibi"]()
    plain = bound(score)
    kernel = low_rank.score_of_kernel(plain, torch.float16, Phase.FORWARD)
    assert "kv - q_first" in repr(kernel.expr) and "kv - q)" not in repr(kernel.expr)
    for phase in (Phase.BACKWARD, Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY):
        assert low_rank.score_of_kernel(plain, torch.bfloat16, phase) is plain.score
    assert low_rank.score_of_kernel(plain, torch.float32, Phase.FORWARD) is plain.score
    learned = bound(score, tuple(bind.captured(score.program)))
    assert low_rank.score_of_kernel(learned, torch.float16, Phase.FORWARD) is learned.score


@pytest.mark.parametrize("language", [Language.GLUON, Language.TRITON])
def test_both_targets_take_the_origin(language):
    """What `attention` gives a kernel for 16-bit inputs is written in terms that it has."""
    score = low_rank.score_of_kernel(bound(SCORES["alibi"]()), torch.float16, Phase.FORWARD)
    text = GENERATORS[Phase.FORWARD, language](KernelSpec(None, score, None, 64, 64)).source
    assert ("(q_offset + q_start)" if language is Language.GLUON else "q_first") in text


def test_what_a_call_tells():
    q, k, v = (torch.randn(1, HEADS, 64, 32, dtype=torch.float16, device=DEVICE) for _ in range(3))
    told = fx.explain(q, k, v, score=SCORES["alibi"](), backend="triton")
    assert "has rank 2 in q and kv; used forward, for 16-bit inputs" in told
    told = fx.explain(q.float(), k.float(), v.float(), score=SCORES["alibi"](), backend="triton")
    assert "not in this call: torch.float32 keeps the score as it is written" in told
