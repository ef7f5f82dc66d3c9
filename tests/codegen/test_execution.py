"""Every generated kernel against the float64 oracle: on a GPU, else under Triton's interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flexdsl as fx
from tests.codegen.oracle import DEVICE, DTYPES, expect, expect_gradients
from tests.codegen.variants import CAUSAL, HEADS, VARIANTS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_golden_kernel(name: str, dtype: torch.dtype) -> None:
    v = VARIANTS[name]
    expect(v.mask, v.score, head_dim=v.head_dim, value_dim=v.value_dim, dtype=dtype)


@pytest.mark.parametrize(
    "name", ["causal", "sinks", "document", "packed", "packed_causal", "alibi", "per_head_window"]
)
@pytest.mark.parametrize(
    ("q_len", "kv_len", "q_offset"),
    [(1, 96, 95), (64, 64, 0), (33, 90, 57), (96, 5, 0), (90, 33, 6), (17, 17, 40), (2, 1, 0)],
)
def test_lengths_and_offsets(name: str, q_len: int, kv_len: int, q_offset: int) -> None:
    v = VARIANTS[name]
    expect(v.mask, v.score, q_len=q_len, kv_len=kv_len, q_offset=q_offset, batch=2)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads(kv_heads: int) -> None:
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < 9 * (h + 1) + 5 * b)
    expect(mask, kv_heads=kv_heads, batch=2)


@pytest.mark.parametrize(
    ("head_dim", "value_dim"),
    [(16, 16), (24, 40), (20, 12), (64, 128), (96, 96), (128, 64), (192, 192), (256, 256), (7, 3)],
)
def test_head_dims(head_dim: int, value_dim: int) -> None:
    expect(CAUSAL, head_dim=head_dim, value_dim=value_dim, q_len=40, kv_len=50)
    expect(CAUSAL, head_dim=head_dim, value_dim=value_dim, q_len=40, dtype=torch.float16)


@pytest.mark.parametrize("scale", [0.0, -0.7, 3.0])
def test_scale(scale: float) -> None:
    expect(CAUSAL, scale=scale)
    expect(CAUSAL, VARIANTS["softcap"].score, scale=scale)


def test_every_op_of_a_score() -> None:
    ops = [fx.exp, fx.exp2, fx.sin, fx.cos, fx.tanh, fx.sigmoid, fx.floor, fx.abs]

    def score(s, b, h, q, kv):
        total = s
        for op in ops:
            total = total + 0.1 * op(s * 0.3)
        positive = fx.abs(s) + 0.5
        total = total + fx.log(positive) + fx.log2(positive) + fx.sqrt(positive)
        total = total + fx.rsqrt(positive) / (1 + q % 3) + fx.minimum(s, 0.5) * fx.maximum(h, 2)
        return fx.where((q ^ kv) & 3 == (kv << 1) >> 2 | 1, total, -total)

    expect(None, fx.score_mod(score), q_len=40, kv_len=40)


def test_every_op_of_a_mask() -> None:
    def mask(b, h, q, kv):
        d = q - kv
        banded = d // 5 - d % 4 != h and -7 <= d <= 30
        return (banded or (not (q * kv > 900) and kv // (1 + q) == 0)) != (min(q, kv) == 3)

    expect(fx.mask_mod(mask))


def test_index_outside_a_table_at_excluded_pairs() -> None:
    table = np.linspace(0, 1, 96, dtype=np.float32)
    score = fx.score_mod(lambda s, b, h, q, kv: s + table[q - kv])
    expect(CAUSAL, score, kv_len=70)


def test_captured_dtypes() -> None:
    ids, keep = np.arange(96, dtype=np.int64) // 10, np.arange(96) % 7 != 3
    small, half = np.arange(96, dtype=np.uint8), np.arange(96, dtype=np.float16)

    def mask(b, h, q, kv):
        return ids[q] == ids[kv] and keep[kv] and small[q] >= small[kv] and half[q] < 80.0

    expect(fx.mask_mod(mask))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_keys_that_all_lie_past_the_end(length: int) -> None:
    """The plan has no live tile, so that the kernel is written without a mask."""
    mask = fx.mask_mod(lambda b, h, q, kv: q + 5 <= kv < q + 9)
    expect(mask, q_len=length, kv_len=length)
    expect_gradients(mask, q_len=length, kv_len=length)


def test_strided_inputs() -> None:
    q = torch.randn(2, 40, HEADS, 32, device=DEVICE).transpose(1, 2)
    k = torch.randn(2, HEADS, 40, 64, device=DEVICE)[..., ::2]
    v = torch.randn(1, 1, 40, 32, device=DEVICE).expand(2, HEADS, 40, 32)
    out = fx.attention(q, k, v, mask=CAUSAL, backend="triton")
    same = fx.attention(*(x.contiguous() for x in (q, k, v)), mask=CAUSAL, backend="triton")
    assert torch.equal(out, same)


def test_a_plan_of_any_tile_gives_the_same() -> None:
    q, k, v = (torch.randn(1, HEADS, 80, 32, device=DEVICE) for _ in range(3))
    mask = VARIANTS["neighborhood"].mask
    out = fx.attention(q, k, v, mask=mask, backend="triton")
    for tile in ((128, 128), (16, 48)):
        plan = fx.plan(mask, 80, 80, tile=tile)
        assert torch.equal(out, fx.attention(q, k, v, mask=plan, backend="triton"))


@pytest.mark.parametrize(("batch", "q_len", "kv_len"), [(0, 8, 8), (2, 0, 8), (2, 8, 0)])
def test_nothing_to_do(batch: int, q_len: int, kv_len: int) -> None:
    q = torch.randn(batch, HEADS, q_len, 32, device=DEVICE)
    k = torch.randn(batch, HEADS, kv_len, 32, device=DEVICE)
    out, lse = fx.attention(q, k, k, return_lse=True, backend="triton")
    assert out.shape == q.shape and not out.any() and bool(lse.isneginf().all())


@pytest.mark.parametrize("windows", [(3, 5, 1, 40), (9, -(2**40), 12, 2**33 + 1)])
def test_bounds_of_64_bits(windows: tuple[int, ...]) -> None:
    w = np.array(windows)
    ends = np.arange(200) // 30 * 30 + w[0]
    for mask in (
        lambda b, h, q, kv: kv < ends[q],
        lambda b, h, q, kv: q >= kv and q - kv < w[h],
        lambda b, h, q, kv: kv >= q + w[h] or kv < 5,
    ):
        expect(fx.mask_mod(mask), q_len=200, kv_len=200)
        expect_gradients(fx.mask_mod(mask), q_len=70, kv_len=150)


MASKS_IN_PARTS: dict[str, Any] = {
    "choice": lambda b, h, q, kv: kv >= 30 if q >= 30 else kv < 25 and kv > 3,
    "equal conditions": lambda b, h, q, kv: (q < 30 and q > 10) == (kv < 30 and kv > 10),
    "or": lambda b, h, q, kv: (q < 9 or q > 30) == (kv < 12 or kv > 20),
    "heads": lambda b, h, q, kv: kv <= q + 2 if (h > 0 and h != 2) == (b < 1) else kv >= q,
}


@pytest.mark.parametrize("name", MASKS_IN_PARTS)
def test_parts_of_a_mask_that_are_named(name: str) -> None:
    expect(fx.mask_mod(MASKS_IN_PARTS[name]), batch=2)
    expect_gradients(fx.mask_mod(MASKS_IN_PARTS[name]), batch=2)


def test_names_that_python_has() -> None:
    declared = "class: int = 20, range: int = 3"
    mask = fx.parse(f"mask m({declared}) = q >= kv and q - kv < class or kv < range")
    expect(mask)
    expect_gradients(mask)
