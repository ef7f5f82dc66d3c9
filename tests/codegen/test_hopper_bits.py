"""Masks that Hopper kernels read as bits, on such a GPU: against the float64 oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.mod import Mod
from flexdsl.runtime import mask_bits, triton_backward
from tests.codegen.oracle import expect, expect_gradients
from tests.codegen.test_hopper import DIMS, HALF, HALF_CUDA, LENGTHS, OF_DIMS
from tests.codegen.variants import HEADS, VARIANTS


def as_bits(where: str) -> dict[str, Mod]:
    """Masks that the forward and the backward kernel read as bits, for 390 positions.

    Args:
        where: their captured tensors are: where they are, so is the table made.
    """

    def there(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, np.int32), device=where)

    random = np.random.default_rng(5).integers(0, 7, (7, 2))
    ids, of_batch = there(np.arange(450) // 23 % 6), there(np.arange(900).reshape(2, 450) // 31)
    return {
        "neighborhood": stdlib.neighborhood((30, 15), 7),
        "neighborhood_3d": stdlib.neighborhood((5, 6, 15), 3),
        "window_2d": stdlib.window_2d((30, 15), 5),
        "shifted_window": stdlib.shifted_window((30, 15), 5),
        "grid_2d": stdlib.grid_2d((30, 15), (2, 3)),
        "timesformer_spatial": stdlib.timesformer_spatial(8),
        "timesformer_temporal": stdlib.timesformer_temporal(8),
        "dilated_window": stdlib.dilated_window(100, 3),
        "strided_heads": stdlib.strided_heads(7, 3, 3, HEADS),
        "bigbird": stdlib.bigbird(there(random)),
        "ids": fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv] and (q + h) % 5 > kv % 3),
        "of each batch": fx.mask_mod(
            lambda b, h, q, kv: of_batch[b, q] == of_batch[b, kv] and (q + kv) % 3 > 0
        ),
        "keys that none sees": fx.mask_mod(lambda b, h, q, kv: (q // 64 + kv // 96) % 3 % 2 > 0),
    }


def spaced(ids: torch.Tensor) -> Mod:
    """Two keys of three of the own document."""
    return fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv] and (q + kv) % 3 > 0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", as_bits("cpu"))
@pytest.mark.parametrize(("q_len", "kv_len", "q_offset"), LENGTHS)
def test_masks_read_as_bits(name: str, q_len: int, kv_len: int, q_offset: int) -> None:
    mask = as_bits("cuda")[name]
    options = {"q_len": q_len, "kv_len": kv_len, "q_offset": q_offset, "batch": 2, **HALF}
    options |= {"on_cpu": as_bits("cpu")[name]}
    for dims in DIMS:
        expect(mask, **options, head_dim=dims[0], value_dim=dims[1])
    expect(mask, VARIANTS["softcap"].score, **options, head_dim=64, value_dim=64)
    expect(mask, VARIANTS["alibi"].score, **options, head_dim=128, value_dim=128)


@pytest.mark.gpu
@pytest.mark.parametrize("name", as_bits("cpu"))
def test_which_masks_are_read_as_bits(name: str) -> None:
    q, k, v = (torch.randn(2, HEADS, 390, 64, **HALF_CUDA) for _ in range(3))
    forward, backward = fx.explain(q, k, v, mask=as_bits("cuda")[name]).split("\nbackward:")
    for text, kernel in ((forward, "forward: gluon"), (backward, "backward: gluon")):
        assert kernel in text and "its mask is read as bits" in text


@pytest.mark.gpu
@pytest.mark.parametrize("name", as_bits("cpu"))
@pytest.mark.parametrize(("q_len", "kv_len", "q_offset"), [*LENGTHS, (390, 390, 0), (256, 384, 0)])
def test_gradients_of_masks_read_as_bits(name: str, q_len: int, kv_len: int, q_offset: int) -> None:
    mask = as_bits("cuda")[name]
    options = {"q_len": q_len, "kv_len": kv_len, "q_offset": q_offset, "batch": 2, **HALF}
    options |= {"on_cpu": as_bits("cpu")[name]}
    for dims in OF_DIMS:
        expect_gradients(mask, **options, **dims)
    expect_gradients(mask, VARIANTS["softcap"].score, **options, head_dim=64, value_dim=64)
    expect_gradients(mask, VARIANTS["alibi"].score, **options, head_dim=128, value_dim=128)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["neighborhood", "strided_heads", "of each batch"])
@pytest.mark.parametrize("dims", OF_DIMS, ids=str)
@pytest.mark.parametrize("length", [384, 350])
@pytest.mark.parametrize("kv_heads", [HEADS, 2, 1])
def test_gradients_of_heads_in_parts_with_bits(
    kv_heads: int,
    length: int,
    dims: dict[str, Any],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each launch of a part of the heads, or of one head of each group, reads the same bits."""
    monkeypatch.setattr(triton_backward, "_ENOUGH", 1)  # what takes a large call otherwise
    options = {"q_len": length, "kv_len": length, "batch": 2, "kv_heads": kv_heads, **HALF}
    options |= {**dims, "on_cpu": as_bits("cpu")[name]}
    expect_gradients(as_bits("cuda")[name], **options)


@pytest.mark.gpu
@pytest.mark.parametrize("most", [64, 0])
@pytest.mark.parametrize("dims", OF_DIMS, ids=str)
@pytest.mark.parametrize(("q_len", "kv_len"), [(200, 200), (200, 256), (256, 200)])
def test_full_tiles_past_the_ends(
    q_len: int, kv_len: int, dims: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and keys past the end have the score 0, far above those of the others.

    All tiles are full, in a table made on the GPU, with bits and without.
    """
    monkeypatch.setattr(mask_bits, "MOST_MIB", most)
    ids = torch.zeros(256, dtype=torch.int32)
    there = ids.cuda()
    mask = fx.mask_mod(lambda b, h, q, kv: there[q] == there[kv])
    same = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    low = fx.score_mod(lambda s, b, h, q, kv: s - 2000.0)
    options = {"q_len": q_len, "kv_len": kv_len, **dims, **HALF}
    expect_gradients(mask, low, **options, on_cpu=same)


@pytest.mark.gpu
def test_bits_follow_what_captured_tensors_contain() -> None:
    ids = torch.arange(300, device="cuda", dtype=torch.int32) // 40
    mask = spaced(ids)
    q, k, v = (torch.randn(1, 2, 300, 64, **HALF_CUDA) for _ in range(3))

    def largest_error() -> float:
        inputs = (x.double().cpu() for x in (q, k, v))
        wanted = fx.attention(*inputs, mask=spaced(ids.cpu()), backend="reference")
        found = fx.attention(q, k, v, mask=mask, backend="hopper")
        return float((found.double().cpu() - wanted).abs().max())

    for shift in (0, 7, 55):
        ids.add_((torch.arange(300, device="cuda") > shift).int())
        assert largest_error() < 2e-3 and largest_error() < 2e-3


@pytest.mark.gpu
def test_gradients_follow_what_captured_tensors_contain() -> None:
    """The second call of each content is a replay of the first one."""
    ids = torch.arange(300, device="cuda", dtype=torch.int32) // 40
    mask = spaced(ids)
    for shift in (0, 7, 55):
        ids.add_((torch.arange(300, device="cuda") > shift).int())
        options = {"q_len": 300, "kv_len": 300, "head_dim": 64, "value_dim": 64, **HALF}
        for _ in range(2):
            expect_gradients(mask, **options, on_cpu=spaced(ids.cpu()))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node")  # of the warm-up on a side stream
def test_a_cuda_graph_makes_bits_anew() -> None:
    ids = torch.arange(300, device="cuda", dtype=torch.int32) // 40
    mask = spaced(ids)
    inputs = [torch.randn(1, 2, 300, 64, **HALF_CUDA, requires_grad=True) for _ in range(3)]

    def step() -> tuple[torch.Tensor, ...]:
        out = fx.attention(*inputs, mask=mask, backend="hopper")
        return out.detach(), *torch.autograd.grad(out.float().square().sum(), inputs)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for length in (150, 17):
        ids.copy_(torch.arange(300, device="cuda") * 7 % 300 // length)
        graph.replay()
        for found, wanted in zip(captured, step(), strict=True):
            # dQ is added up in whatever order programs come by.
            torch.testing.assert_close(found, wanted, rtol=1e-2, atol=2e-3)


def near(b: Any, h: Any, q: Any, kv: Any) -> Any:
    """A grid of 32 columns in tiles of 8 x 8, one after the other; three rows and columns away."""
    rows = q // 256 * 8 + q % 64 // 8 - kv // 256 * 8 - kv % 64 // 8
    columns = q // 64 % 4 * 8 + q % 8 - kv // 64 % 4 * 8 - kv % 8
    return rows >= -3 and rows <= 3 and columns >= -3 and columns <= 3


# Masks of which many tiles have no pair for 64 of their 128 rows.
SKIPPED = {
    "grid in tiles": fx.mask_mod(near),
    "of heads": fx.mask_mod(
        lambda b, h, q, kv: (q // 64 + kv // 128 + h) % 2 == 0 and (q + kv) % 3 > 0
    ),
    "with full tiles": fx.mask_mod(
        lambda b, h, q, kv: (
            (q // 128 + kv // 128) % 3 == 0 or (q // 64 % 4 == kv // 99 and (q + kv) % 5 > 0)
        )
    ),
    "first rows": fx.mask_mod(lambda b, h, q, kv: q % 128 < 64 and (q + kv) % 5 > 0),
    "last rows": fx.mask_mod(lambda b, h, q, kv: q % 128 >= 64 and (q + kv) % 5 > 0),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", SKIPPED)
@pytest.mark.parametrize(("q_len", "kv_len"), [(390, 390), (512, 700), (70, 640)])
@pytest.mark.parametrize("dim", [96, 128])
def test_consumers_that_skip_tiles(dim: int, q_len: int, kv_len: int, name: str) -> None:
    options = {"q_len": q_len, "kv_len": kv_len, "batch": 2, "head_dim": dim, "value_dim": dim}
    expect(SKIPPED[name], **options, **HALF)
    expect(SKIPPED[name], VARIANTS["softcap"].score, **options, **HALF)
    expect(SKIPPED[name], VARIANTS["alibi"].score, **options, **HALF)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SKIPPED)
def test_which_consumers_skip_tiles(name: str) -> None:
    for dim, skips in ((64, False), (128, True)):
        q, k, v = (torch.randn(2, HEADS, 640, dim, **HALF_CUDA) for _ in range(3))
        assert ("its consumers skip" in fx.explain(q, k, v, mask=SKIPPED[name])) == skips


@pytest.mark.gpu
@pytest.mark.parametrize("name", SKIPPED)
def test_programs_of_many_works_skip_tiles(name: str) -> None:
    """Each goes through a dozen, in whatever order it gets them: results have the same bits."""
    tensors = (torch.randn(4, 32, 1664, 128, **HALF_CUDA) for _ in range(3))
    expect_the_same_bits(SKIPPED[name], *tensors)


def expect_the_same_bits(mask: fx.Mod, *qkv: torch.Tensor) -> None:
    """Those of the first call each time; it is near the portable kernel."""
    wanted, wanted_lse = fx.attention(*qkv, mask=mask, return_lse=True, backend="triton")
    first, lse = fx.attention(*qkv, mask=mask, return_lse=True, backend="hopper")
    torch.testing.assert_close(first, wanted, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(lse, wanted_lse, rtol=1e-4, atol=1e-4)
    for _ in range(20):
        assert torch.equal(fx.attention(*qkv, mask=mask, backend="hopper"), first)
