"""The oracle itself, against results worked out by hand and against torch's own attention."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import flexdsl as fx
from flexdsl.runtime.reference import dense_attention, reference
from support.calls import Shape, assert_near


def test_two_keys_by_hand():
    q = torch.tensor([[[[1.0]]]])
    k = torch.tensor([[[[0.0], [math.log(3.0)]]]])
    v = torch.tensor([[[[4.0], [8.0]]]])
    out, lse = reference(q, k, v, scale=1.0)
    assert out.item() == pytest.approx(0.25 * 4 + 0.75 * 8)
    assert lse.item() == pytest.approx(math.log(4.0))
    out, lse = reference(q, k, v, scale=1.0, mask=lambda b, h, q, kv: kv == 0)
    assert (out.item(), lse.item()) == (4.0, 0.0)
    out, lse = reference(q, k, v, scale=1.0, score=lambda s, b, h, q, kv: 0.0)
    assert (out.item(), lse.item()) == (pytest.approx(6.0), pytest.approx(math.log(2.0)))


@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_agrees_with_torch(scale):
    q, k, v = Shape(batch=2, heads=4, kv_heads=2, q_len=7, kv_len=9, v_dim=5).tensors()
    allowed = torch.rand(2, 4, 7, 9) < 0.7
    allowed[..., 0] = True
    out, _ = dense_attention(q, k, v, allowed=allowed, scale=scale)
    assert_near(
        out,
        F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale, enable_gqa=True),
    )


def test_an_empty_row_is_zero_and_has_no_gradient():
    tensors = [x.requires_grad_() for x in Shape(q_len=3, kv_len=4).tensors()]
    out, lse = reference(*tensors, mask=lambda b, h, q, kv: q == 1)
    assert (out[:, :, [0, 2]] == 0).all() and (lse[:, :, [0, 2]] == -math.inf).all()
    for gradient in torch.autograd.grad(out.sum() + lse[:, :, 1].sum(), tensors):
        assert not gradient.isnan().any()
    (gradient,) = torch.autograd.grad(
        reference(*tensors, mask=lambda b, h, q, kv: q == 1)[0].sum(), tensors[:1]
    )
    assert (gradient[:, :, [0, 2]] == 0).all()


def test_positions_include_the_offset():
    seen = []
    q, k, v = Shape(heads=1, kv_heads=1, q_len=2, kv_len=1).tensors()
    reference(q, k, v, mask=lambda b, h, q, kv: bool(seen.append(q)) or True, q_offset=5)
    assert seen == [5, 6]


def test_the_backend_gives_the_callers_dtype():
    q, k, v = Shape().tensors(torch.bfloat16)
    out, lse = fx.attention(q, k, v, backend="reference", return_lse=True)
    assert out.dtype is torch.bfloat16 and lse.dtype is torch.float32


def test_the_backend_asks_the_function_and_not_the_expression():
    calls = []

    def mask(b, h, q, kv):
        if isinstance(kv, int):
            calls.append((b, h, q, kv))
        return q >= kv

    q, k, v = Shape(heads=1, kv_heads=1, q_len=3, kv_len=2).tensors()
    fx.attention(q, k, v, mask=mask, backend="reference")
    assert calls == [(0, 0, q, kv) for q in range(3) for kv in range(2)]


def test_the_backend_has_gradients_through_a_score_modification():
    slopes = torch.tensor([0.5, -0.25], dtype=torch.float64, requires_grad=True)
    tensors = [x.requires_grad_() for x in Shape(q_len=3, kv_len=4, dim=2, v_dim=2).tensors()]

    def call(q, k, v, slopes):
        def score(score, b, h, q, kv):
            return fx.tanh(score) + slopes[h] * (kv - q)

        return fx.attention(q, k, v, score=score, backend="reference")

    assert torch.autograd.gradcheck(call, (*tensors, slopes))


def test_a_score_counts_where_the_mask_allows_alone():
    """Elsewhere it may have no value, as a number too large for Python, or no finite derivative."""
    tensors = [x.requires_grad_() for x in Shape(q_len=3, kv_len=4, dim=2, v_dim=2).tensors()]
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv)
    steep = fx.score_mod(lambda s, b, h, q, kv: s * fx.exp2(2000.0 * (kv - q)))
    flat = fx.score_mod(lambda s, b, h, q, kv: s * (1.0 - fx.minimum(abs(kv - q), 1)))
    quotient = fx.score_mod(lambda s, b, h, q, kv: s / (q - kv + 1.0))
    with torch.no_grad():
        outs = [
            fx.attention(*tensors, mask=mask, score=x, backend="reference") for x in (steep, flat)
        ]
    torch.testing.assert_close(*outs)
    out = fx.attention(*tensors, mask=mask, score=quotient, backend="reference")
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), tensors))
