"""Gradients of the CPU executor: finite differences, and the oracle's by autograd."""

from __future__ import annotations

import math

import pytest
import torch

import flexdsl as fx
from flexdsl.errors import BackendError
from flexdsl.runtime import slabs
from flexdsl.runtime.reference import dense_attention, mask_table
from support.calls import MASKS, SCORES, Shape, assert_near

TINY = Shape(batch=2, heads=4, kv_heads=2, q_len=5, kv_len=6, dim=3, v_dim=2)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr("flexdsl.runtime.slabs.TILE", (4, 2))
    monkeypatch.setattr(slabs, "LEAST_ROWS", 3)
    monkeypatch.setattr(slabs, "SLAB_SCORES", 40)


def leaves(shape: Shape, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [x.requires_grad_() for x in shape.tensors(dtype)]


@pytest.mark.parametrize("mask", MASKS)
def test_gradients_of_masks(mask):
    def call(q, k, v):
        out, lse = fx.attention(q, k, v, mask=MASKS[mask], return_lse=True)
        return out, lse.masked_fill(lse == -math.inf, 0.0)

    assert torch.autograd.gradcheck(call, leaves(TINY), fast_mode=True)


@pytest.mark.parametrize("score", SCORES)
def test_gradients_of_scores(score):
    def call(q, k, v):
        return fx.attention(q, k, v, mask=MASKS["window"], score=SCORES[score])

    assert torch.autograd.gradcheck(call, leaves(TINY), fast_mode=True)


def test_every_element_of_a_gradient():
    def call(q, k, v):
        return fx.attention(
            q, k, v, mask=MASKS["causal"], score=SCORES["softcap"], scale=0.7, return_lse=True
        )

    assert torch.autograd.gradcheck(call, leaves(Shape(q_len=4, kv_len=5, dim=2, v_dim=2)))


def test_gradients_of_captured_tensors():
    table = torch.linspace(-1, 1, 4 * 12, dtype=torch.float64).reshape(4, 12).requires_grad_()
    heat = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)

    def call(q, k, v, table, heat):
        def score(score, b, h, q, kv):
            return score * heat + fx.tanh(table[h, q - kv + 6])

        return fx.attention(q, k, v, mask=MASKS["window of each head"], score=score)

    assert torch.autograd.gradcheck(call, (*leaves(TINY), table, heat), fast_mode=True)


def test_captured_halves_are_summed_in_single_precision(monkeypatch):
    """4096 rows add 2**-14 each: in bfloat16 the sum would stop long before 0.25."""
    monkeypatch.setattr("flexdsl.runtime.slabs.TILE", (4096, 2))
    monkeypatch.setattr(slabs, "LEAST_ROWS", 4096)
    bias = torch.zeros(1, dtype=torch.bfloat16, requires_grad=True)
    q = torch.zeros(1, 1, 4096, 1, dtype=torch.float32)
    k, v = torch.zeros(1, 1, 2, 1), torch.tensor([[[[1.0], [0.0]]]])

    def score(score, b, h, q, kv):
        return score + fx.where(kv == 0, bias[q // 4096], 0.0)

    fx.attention(q, k, v, score=score).mean().backward()
    assert bias.grad is not None and bias.grad.dtype is torch.bfloat16
    assert bias.grad.item() == pytest.approx(0.25, rel=1e-2)


@pytest.mark.parametrize("mask", ["causal", "documents", "empty rows", "batch and head"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_against_the_oracle(mask, dtype):
    shape = Shape(batch=2, heads=4, kv_heads=2, q_len=35, kv_len=41, v_dim=8)
    tensors = leaves(shape, dtype)
    allowed = mask_table(lambda *args: bool(MASKS[mask](*args)), (2, 4, 35, 41))
    expected, _ = dense_attention(*tensors, allowed=allowed)
    generator = torch.Generator().manual_seed(0)
    dout = torch.randn(expected.shape, dtype=expected.dtype, generator=generator)
    found = torch.autograd.grad(fx.attention(*tensors, mask=MASKS[mask]), tensors, dout.to(dtype))
    wanted = torch.autograd.grad(expected, tensors, dout)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype is dtype
        assert_near(a, b, 8 * torch.finfo(dtype).eps)


def test_empty_rows_have_gradient_zero():
    q, k, v = leaves(Shape(q_len=12, kv_len=12))
    out, lse = fx.attention(q, k, v, mask=lambda b, h, q, kv: q == 3, return_lse=True)
    # What comes back for an empty row may be anything: here -inf and NaN.
    dout = (out.detach() + 1).masked_fill((lse == -math.inf).unsqueeze(-1), math.nan)
    dq, dk, dv = torch.autograd.grad((out, lse), (q, k, v), (dout, lse.detach()))
    rows = [i for i in range(12) if i != 3]
    assert (dq[:, :, rows] == 0).all()
    for gradient in (dq, dk, dv):
        assert not gradient.isnan().any()


def test_an_excluded_pair_with_no_finite_derivative_gives_no_nan():
    q, k, v = leaves(Shape(q_len=12, kv_len=12))

    def score(score, b, h, q, kv):
        return score * fx.log(1.0 * (q - kv))

    out = fx.attention(q, k, v, mask=lambda b, h, q, kv: q > kv, score=score)
    for gradient in torch.autograd.grad(out.sum(), (q, k, v)):
        assert not gradient.isnan().any()


def test_an_excluded_pair_gives_no_nan_to_a_captured_tensor():
    q, k, v = leaves(TINY)
    table = torch.tensor([0.5, -0.25, 1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def call(q, k, v, table):
        def score(score, b, h, q, kv):
            return score + table[h] * fx.log(1.0 * (q - kv))

        return fx.attention(q, k, v, mask=lambda b, h, q, kv: q > kv, score=score)

    assert torch.autograd.gradcheck(call, (q, k, v, table), fast_mode=True)


def test_lse_alone_has_a_gradient():
    q, k, v = leaves(TINY)
    _, lse = fx.attention(q, k, v, return_lse=True)
    _, expected = dense_attention(q, k, v)
    weight = torch.randn_like(lse)
    found = torch.autograd.grad(lse, (q, k), weight)
    for a, b in zip(found, torch.autograd.grad(expected, (q, k), weight), strict=True):
        assert_near(a, b)


def test_no_keys_gives_gradient_zero():
    q, k, v = leaves(Shape(kv_len=0))
    dq, dk, _ = torch.autograd.grad(fx.attention(q, k, v).sum(), (q, k, v))
    assert (dq == 0).all() and dk.shape == k.shape


def test_only_what_requires_a_gradient_gets_one():
    q, k, v = Shape().tensors()
    k.requires_grad_()
    fx.attention(q, k, v, mask=MASKS["causal"]).sum().backward()
    assert k.grad is not None and q.grad is None
    assert not fx.attention(q, k.detach(), v).requires_grad


def test_a_second_derivative_is_refused():
    q, k, v = leaves(TINY)
    (dq,) = torch.autograd.grad(fx.attention(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(BackendError, match="no second derivative"):
        dq.sum().backward()


def test_a_capture_changed_before_the_backward_is_refused():
    seen = torch.ones(64, dtype=torch.bool)
    q, k, v = leaves(TINY)
    out = fx.attention(q, k, v, mask=lambda b, h, q, kv: seen[kv])
    seen[0] = False
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
