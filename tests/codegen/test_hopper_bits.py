"""Masks that the Hopper forward kernel reads as bits, on such a GPU: against the float64 oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.mod import Mod
from tests.codegen.oracle import expect
from tests.codegen.test_hopper import DIMS, HALF, HALF_CUDA, LENGTHS
from tests.codegen.variants import HEADS, VARIANTS


def as_bits(where: str) -> dict[str, Mod]:
    """Masks that the forward kernel reads as bits, for 390 positions.

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
    text = fx.explain(q, k, v, mask=as_bits("cuda")[name])
    assert "forward: gluon" in text and "its mask is read as bits" in text


@pytest.mark.gpu
def test_bits_follow_what_captured_tensors_contain() -> None:
    ids = torch.arange(300, device="cuda", dtype=torch.int32) // 40
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv] and (q + kv) % 3 > 0)
    q, k, v = (torch.randn(1, 2, 300, 64, **HALF_CUDA) for _ in range(3))

    def largest_error() -> float:
        inputs = (x.double().cpu() for x in (q, k, v))
        kept = ids.cpu()
        same = fx.mask_mod(lambda b, h, q, kv: kept[q] == kept[kv] and (q + kv) % 3 > 0)
        wanted = fx.attention(*inputs, mask=same, backend="reference")
        found = fx.attention(q, k, v, mask=mask, backend="hopper")
        return float((found.double().cpu() - wanted).abs().max())

    for shift in (0, 7, 55):
        ids.add_((torch.arange(300, device="cuda") > shift).int())
        assert largest_error() < 2e-3 and largest_error() < 2e-3


@pytest.mark.gpu
def test_a_cuda_graph_makes_bits_anew() -> None:
    ids = torch.arange(300, device="cuda", dtype=torch.int32) // 40
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv] and (q + kv) % 3 > 0)
    q, k, v = (torch.randn(1, 2, 300, 64, **HALF_CUDA) for _ in range(3))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        fx.attention(q, k, v, mask=mask, backend="hopper")
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fx.attention(q, k, v, mask=mask, backend="hopper")
    for length in (150, 17):
        ids.copy_(torch.arange(300, device="cuda") * 7 % 300 // length)
        graph.replay()
        torch.testing.assert_close(out, fx.attention(q, k, v, mask=mask, backend="hopper"))
