"""Squares of differences in generated kernels: multiplied out where little is lost by it."""

from __future__ import annotations

import math

import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.runtime import bind, low_rank
from tests.codegen.oracle import DEVICE, expect, expect_gradients
from tests.codegen.variants import HEADS

LENGTH = 160  # of positions, more than tests have queries and keys


def positions(*shape, spread=1.0):
    generator = torch.Generator().manual_seed(len(shape))
    return (spread * torch.randn(*shape, generator=generator)).to(DEVICE)


def distance(spread=1.0, dtype=torch.float32):
    return stdlib.spatial_distance(positions(LENGTH, 3, spread=spread).to(dtype))


def points(dtype=torch.float32):
    x, y = (positions(HEADS, LENGTH, 2, 3, spread=s).to(dtype) for s in (0.5, 0.7))
    return stdlib.ipa_points(x, y, torch.linspace(0.1, 1.0, HEADS, device=DEVICE))


def bound(score):
    lengths = bind.Lengths(1, HEADS, 70, 90, 0)
    return bind.bind(None, score.program, lengths, (0, 0))


def products_of(score, squares=True):
    found = low_rank.with_products(bound(score), 0.25, torch.float16, squares=squares)
    return len(found.products)


@pytest.mark.parametrize("make", [distance, points])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_passes(make, dtype):
    score = make(dtype=dtype)
    assert products_of(score) > 2
    expect(stdlib.causal(), score, dtype=torch.float16)
    expect_gradients(stdlib.causal(), score, dtype=torch.float16)


@pytest.mark.parametrize(("spread", "count"), [(10.0, 5), (1000.0, 0), (math.inf, 0)])
def test_large_parts_stay_as_they_are_written(spread, count):
    """Parts of 1e7 would lose what near tokens differ by; infinite ones would be NaN."""
    assert products_of(distance(spread)) == count
    if math.isfinite(spread):
        expect(stdlib.causal(), distance(spread), dtype=torch.float16)


def test_a_common_offset_counts():
    near = positions(LENGTH, 3)
    assert products_of(stdlib.spatial_distance(near)) == 5
    assert products_of(stdlib.spatial_distance(near + 1e4)) == 0
    expect(None, stdlib.spatial_distance(near + 1e4), dtype=torch.float16)


def test_what_is_learned_is_not_looked_at():
    x = positions(LENGTH, 3).requires_grad_()
    score = stdlib.spatial_distance(x)
    assert products_of(score) == 0 and not low_rank.tensors_of_squares(None, score.program)
    watched = low_rank.tensors_of_squares(None, distance().program)
    assert {t.shape for t in watched} == {(LENGTH, 3)}


def test_kernels_that_were_made_before_do_without():
    assert products_of(distance(), squares=False) == 0


@pytest.mark.parametrize("guarded", [False, True])
def test_a_change_in_place_is_seen(guarded):
    """The same call twice: its positions grow between, so that its squares stay as written.

    Guarded, the score is a sum with squares only where its mask holds.
    """
    x = positions(LENGTH, 3)
    score, mask = stdlib.spatial_distance(x), None
    if guarded:
        mask = stdlib.causal()
        far = score
        score = fx.score_mod(lambda s, b, h, q, kv: fx.where(q >= kv, far(s, b, h, q, kv), 0.0))
    q, k, v = positions(3, HEADS, 90, 32).half()[:, None]
    for _ in range(2):
        out = fx.attention(q, k, v, mask=mask, score=score, backend="triton")
        exact = (t.cpu().double() for t in (q, k, v))
        wanted = fx.attention(*exact, mask=mask, score=on_cpu(x))
        assert (out.cpu().double() - wanted).abs().max() < 2e-3
        x += 3000.0


def on_cpu(x):
    return stdlib.spatial_distance(x.cpu())


def test_what_a_call_tells():
    q, k, v = positions(3, HEADS, 64, 32).half()[:, None]
    told = fx.explain(q, k, v, score=distance(), backend="triton")
    assert (
        "5 products of a number of q and one of kv, of squares multiplied out: 24 columns of"
        " matrices in bfloat16, used forward and backward"
    ) in told
    told = fx.explain(q, k, v, score=distance(1000.0), backend="triton")
    assert "squares of differences as they are written: their parts, as large as" in told
    assert "would lose digits above 4096" in told


@pytest.mark.gpu
@pytest.mark.parametrize("make", [distance, points])
def test_both_passes_on_a_gpu(make):
    """Beside eager attention in float64, with the numbers of the score on the same GPU."""
    q, k, v, d_out = positions(4, HEADS, 160, 128).bfloat16()[:, None]
    q, d_out = q[:, :, :150], d_out[:, :, :150]
    found, wanted = [], []
    for given, dtype in ((found, torch.bfloat16), (wanted, torch.float64)):
        inputs = [t.to(dtype).requires_grad_() for t in (q, k, v)]
        backend = "reference" if dtype is torch.float64 else "auto"
        out = fx.attention(*inputs, mask=stdlib.causal(), score=make(), backend=backend)
        given += [out, *torch.autograd.grad(out, inputs, d_out.to(dtype))]
    for one, other in zip(found, wanted, strict=True):
        assert (one.double() - other).norm() < 1e-2 * other.norm()


@pytest.mark.parametrize("lengths", [(0, 90), (70, 0)])
def test_no_queries_or_no_keys(lengths):
    q, k, v = (positions(1, HEADS, n, 32).half() for n in (lengths[0], lengths[1], lengths[1]))
    out = fx.attention(q, k, v, score=distance(), backend="triton")
    assert out.shape == q.shape and not out.any()
