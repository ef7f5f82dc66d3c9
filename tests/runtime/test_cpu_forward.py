"""The CPU executor, forward, against the dense float64 oracle on the user's own functions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.runtime import executors, slabs
from flexdsl.runtime.reference import dense_attention
from support.calls import MASKS, SCORES, Shape, assert_near, oracle


def check(shape: Shape, tolerance: float = 1e-12, **call):
    tensors = shape.tensors()
    out, lse = fx.attention(*tensors, return_lse=True, backend="cpu", **call)
    expected, expected_lse = oracle(*tensors, **call)
    assert_near(out, expected, tolerance)
    assert_near(lse, expected_lse, tolerance)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles and slabs so small that a short sequence has many, cut in every direction."""
    monkeypatch.setattr("flexdsl.runtime.slabs.TILE", (16, 8))
    monkeypatch.setattr(slabs, "LEAST_ROWS", 4)
    monkeypatch.setattr(slabs, "SLAB_SCORES", 200)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", [Shape(batch=2, heads=4, kv_heads=2, q_len=37, v_dim=5)])
def test_masks(mask, shape):
    check(shape, mask=MASKS[mask])


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("mask", ["none", "window of each head"])
def test_scores(score, mask):
    shape = Shape(batch=2, heads=4, kv_heads=2, q_len=19, kv_len=21)
    check(
        shape, 1e-6 if score in ("alibi", "bias") else 1e-12, mask=MASKS[mask], score=SCORES[score]
    )


@pytest.mark.parametrize(
    "shape",
    [
        Shape(q_len=1, kv_len=40),
        Shape(q_len=40, kv_len=1),
        Shape(heads=6, kv_heads=1, q_len=5, kv_len=9),
        Shape(batch=3, heads=6, kv_heads=3, q_len=131, kv_len=7, v_dim=1),
        Shape(q_len=130, kv_len=257, heads=1, kv_heads=1, dim=3),
    ],
    ids=str,
)
def test_shapes(shape):
    check(shape, mask=MASKS["causal"], score=SCORES["softcap"])


@pytest.mark.parametrize("dim", [16, 64, 96, 128, 192, 256])
def test_head_dims(dim):
    check(Shape(dim=dim, v_dim=dim, q_len=20, kv_len=20), mask=MASKS["window"])


@settings(max_examples=30)
@given(
    st.builds(
        lambda group, **rest: Shape(heads=group * rest["kv_heads"], **rest),
        group=st.integers(1, 3),
        batch=st.integers(0, 3),
        kv_heads=st.integers(1, 2),
        q_len=st.integers(0, 40),
        kv_len=st.integers(0, 40),
        dim=st.integers(1, 9),
        v_dim=st.integers(1, 9),
    ),
    st.sampled_from(list(MASKS)),
    st.sampled_from(list(SCORES)),
    st.integers(0, 20),
    st.sampled_from([None, 0.5, -1.0]),
)
def test_any_call(shape, mask, score, q_offset, scale):
    check(shape, 1e-6, mask=MASKS[mask], score=SCORES[score], q_offset=q_offset, scale=scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mask", ["none", "window"])
def test_error_is_at_most_that_of_the_eager_computation(dtype, mask):
    """Accuracy rule of the project: 1.1 times the eager error in the same dtype, at most."""
    shape = Shape(heads=4, kv_heads=4, q_len=60, kv_len=60, dim=64, v_dim=64)
    q, k, v = shape.tensors(dtype)
    allowed = torch.ones(60, 60, dtype=torch.bool)
    if mask == "window":
        rows = torch.arange(60)
        allowed = (rows[:, None] >= rows) & (rows[:, None] - rows < 9)
    expected, _ = dense_attention(q, k, v, allowed=allowed)
    scores = (q @ k.transpose(2, 3) / 8.0).masked_fill(~allowed, -math.inf)
    eager = torch.softmax(scores, 3) @ v
    out = fx.attention(q, k, v, mask=MASKS[mask])
    assert out.dtype is dtype

    def error(found: torch.Tensor) -> float:
        return (found.double() - expected).square().mean().sqrt().item()

    assert error(out) <= 1.1 * error(eager)


STRIDED = {
    "heads inside": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "last dimension apart": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second row": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "one batch for all": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", STRIDED)
def test_strides(layout):
    shape = Shape(batch=2, heads=4, kv_heads=2, q_len=21, kv_len=23)
    tensors = [STRIDED[layout](x) for x in shape.tensors()]
    assert not any(x.is_contiguous() for x in tensors)
    out = fx.attention(*tensors, mask=MASKS["window"])
    assert_near(out, oracle(*tensors, mask=MASKS["window"])[0])


def test_a_row_without_a_key_is_zero():
    q, k, v = Shape(q_len=40, kv_len=40).tensors(torch.float32)
    for call in (
        {"mask": MASKS["nothing"]},
        {"score": lambda score, b, h, q, kv: -math.inf + 0 * score},
    ):
        out, lse = fx.attention(q, k, v, return_lse=True, **call)
        assert (out == 0).all() and (lse == -math.inf).all()


def test_no_keys_and_no_batches():
    q, k, v = Shape(kv_len=0).tensors(torch.float32)
    out, lse = fx.attention(q, k, v, mask=MASKS["causal"], return_lse=True)
    assert (out == 0).all() and (lse == -math.inf).all() and out.shape == q.shape
    q, k, v = Shape(batch=0, v_dim=3).tensors(torch.float32)
    assert fx.attention(q, k, v, mask=MASKS["batch and head"]).shape == (0, 2, 33, 3)


def test_a_plan_as_mask():
    shape = Shape(batch=2, q_len=40, kv_len=50)
    tensors = shape.tensors()
    plan = fx.plan(MASKS["window"], 40, 50, tile=(8, 16), q_offset=10)
    expected, _ = oracle(*tensors, mask=MASKS["window"], q_offset=10)
    assert_near(fx.attention(*tensors, mask=plan, q_offset=10), expected)
    by_reference = fx.attention(*tensors, mask=plan, q_offset=10, backend="reference")
    assert_near(by_reference, expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("mask", ["documents", "padding of each batch"])
def test_a_plan_with_captures_and_a_transposed_one(backend, mask):
    tensors = Shape(batch=2).tensors()
    plan = fx.plan(MASKS[mask], 33, 33, batch=2, heads=2, tile=(8, 16))
    expected, _ = oracle(*tensors, mask=MASKS[mask])
    assert_near(fx.attention(*tensors, mask=plan, backend=backend), expected)
    assert_near(fx.attention(*tensors, mask=plan.transposed(), backend=backend), expected)


def test_text_as_mask_and_score():
    tensors = Shape().tensors()
    out = fx.attention(
        *tensors,
        mask="mask window(w: int = 9) = q >= kv and q - kv < w",
        score="score cap(c: float = 2.0) = c * tanh(score / c)",
    )
    assert_near(out, oracle(*tensors, mask=MASKS["window"], score=SCORES["softcap"])[0])


def test_lse_has_the_dtype_of_the_arithmetic():
    for dtype, wide in (
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        _, lse = fx.attention(*Shape().tensors(dtype), return_lse=True)
        assert lse.dtype is wide


def test_no_matrix_of_all_pairs_is_made():
    """Positive control: the oracle's dense scores are seen by the same measurement."""
    q, k, v = Shape(heads=1, kv_heads=1, q_len=2048, kv_len=2048).tensors(torch.float32)
    dense = 2048 * 2048 * 4
    assert _largest_allocation(lambda: dense_attention(q, k, v)) >= dense
    assert _largest_allocation(lambda: fx.attention(q, k, v, mask=MASKS["window"])) <= dense / 10


def _largest_allocation(function) -> int:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the profiler sees the calling thread alone
    try:
        with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
            function()
    finally:
        torch.set_num_threads(threads)
    return max(event.self_cpu_memory_usage for event in profile.events())


def test_a_plan_is_looked_for_once_for_a_kind_of_call(monkeypatch):
    found, find = [], executors.find_plan
    monkeypatch.setattr(executors, "find_plan", lambda *of: found.append(of) or find(*of))
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv)
    for _ in range(3):
        fx.attention(*Shape(q_len=20, kv_len=20).tensors(), mask=mask)
    assert len(found) == 1
