"""The Hopper kernels of backward passes against the float64 oracle, on a Hopper GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.runtime import bind, triton_backward
from tests.codegen.biased import expect_biased
from tests.codegen.oracle import error, expect_gradients, gradients
from tests.codegen.test_hopper import (
    FACTORS,
    HALF,
    HALF_CUDA,
    HALVES,
    LENGTHS,
    OF_DIMS,
    factors,
)
from tests.codegen.variants import CAUSAL, HEADS, VARIANTS


@pytest.mark.gpu
@pytest.mark.parametrize("of_dims", OF_DIMS, ids=str)
@pytest.mark.parametrize("name", FACTORS)
def test_gradients_under_products(name: str, of_dims: dict[str, Any]) -> None:
    dims = {**of_dims, "dtype": torch.bfloat16, "backend": "hopper"}
    for leading in ((), (2, HEADS)):
        for kv_heads in (2, HEADS):
            expect_biased(*factors(name, *leading), kv_heads=kv_heads, gradients=True, **dims)


def expect_gradients_again(heads: int, kv_heads: int, device: str = "cuda") -> None:
    """The second pass of a kind and those after it are replays, in memory that was used before."""
    bind.forget()
    for _ in range(4):
        shapes = [(2, h, 256, 128) for h in (heads, kv_heads, kv_heads, heads)]
        q, k, v, d_out = (torch.randn(s, device=device, dtype=torch.float16) for s in shapes)
        leaves = [x.requires_grad_() for x in (q, k, v)]
        out = fx.attention(*leaves, mask=CAUSAL, backend="hopper")
        found = torch.autograd.grad(out, leaves, d_out)
        wide = [x.detach().double().requires_grad_() for x in leaves]
        of_q = [wide[0], *(x.repeat_interleave(heads // kv_heads, 1) for x in wide[1:])]
        exact = torch.nn.functional.scaled_dot_product_attention(*of_q, is_causal=True)
        wanted = torch.autograd.grad(exact, wide, d_out.double())
        for x, y in zip((out, *found), (exact, *wanted), strict=True):
            assert error(x.detach(), y.detach().cpu()) < 2e-3


@pytest.mark.gpu
@pytest.mark.parametrize("enough", [1, 999])
@pytest.mark.parametrize("large", [0, 2**23])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2)])
def test_gradients_launched_again(
    heads: int, kv_heads: int, large: int, enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums inside of dQ and beside it, heads in parts and in one; also on another stream."""
    monkeypatch.setattr(triton_backward, "_LARGE", large)
    monkeypatch.setattr(triton_backward, "_ENOUGH", enough)
    expect_gradients_again(heads, kv_heads)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expect_gradients_again(heads, kv_heads)
    torch.cuda.synchronize()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_gradients_on_a_gpu_that_is_not_the_current_one() -> None:
    with torch.cuda.device(0):
        expect_gradients_again(4, 4, "cuda:1")
        assert torch.cuda.current_device() == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_of_variants(name: str, dtype: torch.dtype) -> None:
    v = VARIANTS[name]
    for dims in OF_DIMS:
        expect_gradients(v.mask, v.score, **dims, dtype=dtype, backend="hopper")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["full", "causal", "sinks", "per_head_window", "neighborhood"])
@pytest.mark.parametrize(("q_len", "kv_len", "q_offset"), LENGTHS)
def test_gradients_of_lengths(name: str, q_len: int, kv_len: int, q_offset: int) -> None:
    lengths = {"q_len": q_len, "kv_len": kv_len, "q_offset": q_offset, "batch": 2}
    for dims in OF_DIMS:
        v = VARIANTS[name]
        expect_gradients(v.mask, VARIANTS["softcap"].score, **lengths, **dims, **HALF)


@pytest.mark.gpu
@pytest.mark.parametrize("dims", OF_DIMS[1:], ids=str)
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_gradients_of_groups(kv_heads: int, dims: dict[str, Any]) -> None:
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < 90 * (h + 1) + 5 * b)
    options = {"q_len": 300, "kv_len": 300, "batch": 2, "dtype": torch.bfloat16}
    expect_gradients(mask, kv_heads=kv_heads, **options, **dims, backend="hopper")


@pytest.mark.gpu
@pytest.mark.parametrize("dims", OF_DIMS, ids=str)
@pytest.mark.parametrize("kv_heads", [2, 8])
def test_fifty_runs_give_the_same_dk_and_dv(kv_heads: int, dims: dict[str, int]) -> None:
    """Programs have several works each; what is added up by atomics is dQ alone."""
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and (q - kv < 500 or kv < 70))
    of_queries = (2, 8, 1300, dims["head_dim"]), (2, 8, 1300, dims["value_dim"])
    of_keys = [(2, kv_heads, 1300, d) for d in dims.values()]
    q, d_out, k, v = (torch.randn(s, **HALF_CUDA) for s in (*of_queries, *of_keys))
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def step() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(
            fx.attention(*leaves, mask=mask, backend="hopper"), leaves, d_out
        )

    first = step()
    for _ in range(50):
        of_q, *others = step()
        torch.testing.assert_close(of_q, first[0], atol=1e-3, rtol=1e-2)
        assert all(torch.equal(x, y) for x, y in zip(first[1:], others, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dims", OF_DIMS, ids=str)
@pytest.mark.parametrize("length", [384, 350])
@pytest.mark.parametrize("kv_heads", [HEADS, 2, 1])
def test_gradients_of_heads_in_parts(
    kv_heads: int, length: int, dims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in the memory of dQ, and beside it where that is no whole tiles.

    Of groups, dK is added up by launches.
    """
    monkeypatch.setattr(triton_backward, "_ENOUGH", 1)  # what takes a large call otherwise
    monkeypatch.setattr(triton_backward, "_LARGE", 0)
    lengths = {"q_len": length, "kv_len": length, "batch": 3, "kv_heads": kv_heads}
    by_head = fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < 90 * (h + 1) + 5 * b)
    for mask in (CAUSAL, by_head):
        expect_gradients(mask, **lengths, **dims, **HALF)


@pytest.mark.gpu
def test_scores_far_below_zero() -> None:
    """A key past the end has the score 0, far above those of its row."""
    low = fx.score_mod(lambda s, b, h, q, kv: s - 20000.0)
    for dims in OF_DIMS:
        expect_gradients(None, low, q_len=200, kv_len=200, **dims, **HALF)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_columns_past_the_end_are_not_read(dtype: torch.dtype) -> None:
    """The 96 columns of each tensor are some of 128, whose others are NaN."""
    generator = torch.Generator(device="cuda").manual_seed(96)
    wide = torch.randn(4, 2, HEADS, 200, 128, device="cuda", generator=generator).to(dtype)
    wide[..., 96:] = float("nan")

    def step(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *inputs, d_out = tensors
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = fx.attention(*leaves, mask=CAUSAL, backend="hopper")
        return out, *torch.autograd.grad(out, leaves, d_out)

    parts = [x[..., :96] for x in wide]
    for x, y in zip(step(*parts), step(*(x.contiguous() for x in parts)), strict=True):
        torch.testing.assert_close(x, y, atol=1e-3, rtol=1e-2)


@pytest.mark.gpu
def test_deterministic_algorithms_give_the_same_bits() -> None:
    options = {"device": "cuda", "dtype": torch.float16}
    q, k, v, d_out = (torch.randn(1, 4, 700, 64, **options) for _ in range(4))
    incoming = [d_out, torch.zeros(1, 4, 700, device="cuda")]
    torch.use_deterministic_algorithms(True)
    try:
        first = gradients(CAUSAL, None, [q, k, v], incoming, "hopper")
        for _ in range(9):
            again = gradients(CAUSAL, None, [q, k, v], incoming, "hopper")
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
