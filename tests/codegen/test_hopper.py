"""The Hopper kernels against the float64 oracle on a Hopper GPU, and what they do not cover."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis.gradient import Reduction, learned_loads
from flexdsl.codegen import backward_reason, reason_not_covered
from flexdsl.errors import BackendError
from flexdsl.ir import captures_of
from flexdsl.mod import Mod
from tests.codegen.biased import dense, expect_biased, expect_exact
from tests.codegen.oracle import expect, expect_gradients
from tests.codegen.variants import BOUNDED, CAUSAL, HEADS, TANGENTS, VARIANTS

HALVES = [torch.float16, torch.bfloat16]
DIMS = [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)]
OF_DIMS: list[dict[str, Any]] = [{"head_dim": d, "value_dim": dv} for d, dv in DIMS]
HALF = {"dtype": torch.float16, "backend": "hopper"}
HALF_CUDA: dict[str, Any] = {"dtype": torch.float16, "device": "cuda"}
LENGTHS = [(1, 300, 299), (128, 128, 0), (257, 129, 0), (96, 5, 0), (130, 390, 260), (70, 17, 90)]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str, dtype: torch.dtype) -> None:
    v = VARIANTS[name]
    for dim in (64, 128):
        dims = {"head_dim": dim, "value_dim": dim}
        expect(v.mask, v.score, **dims, dtype=dtype, backend="hopper")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["full", "causal", "sliding_window", "sinks", "per_head_window"])
@pytest.mark.parametrize(("q_len", "kv_len", "q_offset"), LENGTHS)
def test_lengths_and_offsets(name: str, q_len: int, kv_len: int, q_offset: int) -> None:
    lengths = {"q_len": q_len, "kv_len": kv_len, "q_offset": q_offset}
    expect(
        VARIANTS[name].mask,
        VARIANTS["softcap"].score,
        **lengths,
        batch=2,
        head_dim=64,
        value_dim=64,
        dtype=torch.float16,
        backend="hopper",
    )


@pytest.mark.gpu
@pytest.mark.parametrize("name", TANGENTS)
def test_scores_that_are_tangents(name: str) -> None:
    for dims in OF_DIMS:
        expect(VARIANTS["sliding_window"].mask, TANGENTS[name], **dims, **HALF)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", BOUNDED)
def test_scores_without_a_maximum(name: str, dtype: torch.dtype) -> None:
    for mask in (None, VARIANTS["sliding_window"].mask, VARIANTS["neighborhood"].mask):
        for dims in OF_DIMS:
            expect(mask, BOUNDED[name], **dims, dtype=dtype, backend="hopper")


def by_rows(contents: str) -> dict[str, Mod]:
    """Masks whose bounds of tiles are those of rows, forward; of keys, backward, in the last two.

    Args:
        contents: "documents", or "anything" for ends that no documents have.
    """
    first, stop = stdlib.document_ends([0, 5, 130, 130, 131, 257, 420, 600])
    if contents == "anything":
        first, stop = np.random.default_rng(4).integers(-9, 600, (2, 600), np.int32)
    of_batch = np.stack([first, np.zeros_like(first)])
    seen = of_batch % 200 < 150
    return {
        "causal": fx.mask_mod(lambda b, h, q, kv: first[q] <= kv and kv <= q),
        "both": fx.mask_mod(
            lambda b, h, q, kv: fx.minimum(first[q], q) <= kv and kv < fx.maximum(stop[q], q + 1)
        ),
        "of each batch": fx.mask_mod(lambda b, h, q, kv: of_batch[b, q] <= kv and kv <= q),
        "no loads": fx.mask_mod(lambda b, h, q, kv: kv >= q and kv + q >= 150),
        "keys that count": fx.mask_mod(lambda b, h, q, kv: seen[b, kv]),
        "of keys": fx.mask_mod(lambda b, h, q, kv: q >= kv and q < stop[kv]),
    }


BY_ROWS = ("causal", "both", "of each batch", "no loads")
BY_ROWS += ("keys that count", "of keys")


@pytest.mark.gpu
@pytest.mark.parametrize("contents", ["documents", "anything"])
@pytest.mark.parametrize("name", BY_ROWS)
@pytest.mark.parametrize(("q_len", "kv_len", "q_offset"), LENGTHS)
def test_bounds_by_rows(name: str, contents: str, q_len: int, kv_len: int, q_offset: int) -> None:
    mask = by_rows(contents)[name]
    lengths = {"q_len": q_len, "kv_len": kv_len, "q_offset": q_offset, "batch": 2}
    for dims in OF_DIMS:
        expect(mask, **lengths, **dims, **HALF)
        expect_gradients(mask, **lengths, **dims, **HALF)
    expect(mask, kv_heads=1, **lengths, head_dim=192, value_dim=128, **HALF)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("make", [stdlib.document, stdlib.document_causal])
def test_documents_by_offsets(make: Callable[..., Mod], dtype: torch.dtype) -> None:
    offsets = [0, 200, 201, 330, 600]
    mask = make(offsets=offsets)
    for dims in OF_DIMS:
        for kv_heads in (1, HEADS):
            options = {"q_len": 600, "kv_len": 600, "kv_heads": kv_heads, "backend": "hopper"}
            expect(mask, **options, **dims, dtype=dtype)
            expect_gradients(mask, **options, **dims, dtype=dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("make", [stdlib.document, stdlib.document_causal])
def test_offsets_on_the_device_are_never_waited_for(make: Callable[..., Mod]) -> None:
    offsets = torch.tensor([0, 200, 201, 330, 600], dtype=torch.int32, device="cuda")
    q, k, v = (torch.randn(1, 4, 600, 64, **HALF_CUDA, requires_grad=True) for _ in range(3))

    def step(mask: Mod) -> tuple[torch.Tensor, ...]:
        out = fx.attention(q, k, v, mask=mask, backend="hopper")
        return out, *torch.autograd.grad(out.float().square().sum(), (q, k, v))

    step(make(offsets=offsets, length=600))
    torch.cuda.synchronize()
    with warnings.catch_warnings(action="ignore"):  # it says that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        mask = make(offsets=offsets, length=600)
        plan = fx.plan(mask, 600, 600, device="cuda")
        assert (plan.kind, plan.transposed().kind) == ("closed-form", "device")
        found = step(mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = step(make(stdlib.document_ids(offsets=offsets.cpu())))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-2, rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("head_dim", "value_dim"), DIMS)
def test_head_dims_and_groups(head_dim: int, value_dim: int, dtype: torch.dtype) -> None:
    dims = {"head_dim": head_dim, "value_dim": value_dim, "dtype": dtype, "backend": "hopper"}
    for kv_heads in (1, HEADS):
        expect(CAUSAL, q_len=200, kv_len=230, q_offset=30, kv_heads=kv_heads, **dims)
        expect(VARIANTS["neighborhood"].mask, q_len=260, kv_len=260, kv_heads=kv_heads, **dims)


FACTORS = {
    "rank 2": (2, torch.float32),
    "rank 8 in bfloat16": (8, torch.bfloat16),
    "rank 16": (16, torch.float32),
    "rank 16 in bfloat16": (16, torch.bfloat16),
    "rank 17, added up for each pair": (17, torch.float32),
}


def factors(name: str, *leading: int) -> list[torch.Tensor]:
    rank, dtype = FACTORS[name]
    generator = torch.Generator().manual_seed(rank)
    shapes = (*leading, 300, rank), (*leading, 330, rank)
    return [torch.randn(shape, generator=generator).to("cuda", dtype) for shape in shapes]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("head_dim", "value_dim"), DIMS)
@pytest.mark.parametrize("name", FACTORS)
def test_products(name: str, head_dim: int, value_dim: int, dtype: torch.dtype) -> None:
    dims = {"head_dim": head_dim, "value_dim": value_dim, "dtype": dtype, "backend": "hopper"}
    for leading in ((), (HEADS,), (2, HEADS)):
        expect_biased(*factors(name, *leading), kv_heads=2, **dims)


@pytest.mark.gpu
@pytest.mark.parametrize("kv_len", [90, 256])
def test_infinite_numbers_of_products(kv_len: int) -> None:
    """A key of -inf takes part in no row, and those past the ends make no NaN."""
    pad = np.zeros(kv_len, np.float32)
    pad[50:70] = -np.inf
    row = np.full(130, 0.5, np.float32)
    added = fx.score_mod(lambda s, b, h, q, kv: s + row[q] * pad[kv])
    capped = fx.score_mod(lambda s, b, h, q, kv: 9.0 * fx.tanh((s + row[q] * pad[kv]) / 9.0))
    options = {"q_len": 130, "kv_len": kv_len, "head_dim": 64, "value_dim": 64, "scale": 0.25}
    for score in (added, capped):
        expect(None, score, dtype=torch.float16, backend="hopper", **options)
        expect_gradients(None, score, dtype=torch.float16, backend="hopper", **options)


@pytest.mark.gpu
def test_products_are_as_exact_as_those_of_float32() -> None:
    for dim in (64, 128):
        expect_exact(dim, "hopper")


@pytest.mark.gpu
def test_products_launched_again_read_what_is_there_then() -> None:
    """The second and third call are replays, on other tensors and on other numbers."""
    x, y = torch.randn(2, 300, 2, device="cuda")
    score = stdlib.lowrank_bias(x, y)
    for factor in (1.0, 1.0, 2.0):
        x.mul_(factor)
        q, k = (torch.randn(1, HEADS, 300, 64, device="cuda").half() for _ in range(2))
        given = {"mask": CAUSAL, "score": score, "return_lse": True}
        _, found = fx.attention(q, k, k, **given, backend="hopper")
        _, wanted = dense(q, k, k, x, y)
        assert (found - wanted).abs().max() < 1e-4


@pytest.mark.gpu
def test_fifty_runs_give_the_same_bits() -> None:
    q, k, v = (torch.randn(2, 8, 1000, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and (q - kv < 300 or kv < 70))
    first = fx.attention(q, k, v, mask=mask, backend="hopper")
    for _ in range(50):
        assert torch.equal(first, fx.attention(q, k, v, mask=mask, backend="hopper"))


@pytest.mark.gpu
def test_strided_inputs() -> None:
    options = {"device": "cuda", "dtype": torch.float16}
    q = torch.randn(2, 140, HEADS, 64, **options).transpose(1, 2)
    k = torch.randn(2, HEADS, 140, 128, **options)[..., ::2]
    v = torch.randn(1, 1, 140, 64, **options).expand(2, HEADS, 140, 64)
    out = fx.attention(q, k, v, mask=CAUSAL, backend="hopper")
    same = fx.attention(*(x.contiguous() for x in (q, k, v)), mask=CAUSAL, backend="hopper")
    assert torch.equal(out, same)


@pytest.mark.gpu
def test_what_is_not_covered_is_refused() -> None:
    q = torch.randn(1, 2, 64, 32, device="cuda", dtype=torch.float16)
    with pytest.raises(BackendError, match="64, 96, 128"):
        fx.attention(q, q, q, backend="hopper")
    with pytest.raises(BackendError, match="16-bit"):
        fx.attention(*(q.float(),) * 3, backend="hopper")


def test_needs_a_gpu() -> None:
    q = torch.randn(1, 2, 64, 64, dtype=torch.float16)
    with pytest.raises(BackendError, match=r"cannot run on tensors on cpu"):
        fx.attention(q, q, q, backend="hopper")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ((80, "bf16", 128, 128), "compute capability 9.0"),
        ((100, "bf16", 128, 128), "compute capability 9.0"),
        ((90, "fp32", 128, 128), "16-bit elements, not fp32"),
        ((90, "bf16", 80, 80), "192/128"),
    ],
)
def test_reasons(call: tuple[int, str, int, int], reason: str) -> None:
    assert reason in str(reason_not_covered(*call))
    assert reason_not_covered(90, "bf16", 192, 128) is None


def test_reasons_of_the_backward() -> None:
    for dim, _ in DIMS:
        assert backward_reason(dim, 4096, (), False, 16) is None
        most = "16 columns of products, not for 32"
        assert (most in str(backward_reason(dim, 4096, (), False, 32))) == (dim in (64, 256))
    assert "deterministic" in str(backward_reason(128, 4096, (), True))
    assert "32 bits" in str(backward_reason(64, 2**31, (), False))


def test_captured_tensors_that_portable_kernels_add_up() -> None:
    """One kind of sums has a kernel beside the backward one; sums of rows and of keys need two."""
    x, y, z = (torch.ones(40) for _ in range(3))
    score = fx.score_mod(lambda s, b, h, q, kv: s + x[q] * y[kv] + z[q - kv])
    names = [c.name for c in captures_of(score.program.expr)]
    loads = learned_loads(score.program.expr, names)
    for load in loads:
        assert backward_reason(128, 4096, (load,), False) is None
    by_reduction = {load.reduction: load for load in loads}
    rows, keys = (by_reduction[r] for r in (Reduction.QUERY, Reduction.KEY))
    assert backward_reason(128, 4096, [x for x in loads if x is not rows], False) is None
    for load in loads:
        diagonal = load.reduction is Reduction.DIAGONAL
        assert ("in passing" in str(backward_reason(64, 4096, (load,), False))) != diagonal
    reason = str(backward_reason(128, 4096, loads, False))
    assert f"gradient of {rows.capture} would take a kernel by rows" in reason
    assert f"that of {keys.capture} one by keys" in reason
