"""Closed form, table of the host, table of a kernel: of one mask all give the same to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import BlockPlan
from flexdsl.codegen import Phase
from flexdsl.runtime import launch
from flexdsl.runtime.tuning import configs
from support.definitions import block_diffusion
from support.plans import as_table

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="tensors and tiles here are those of the interpreter"
)

HEADS, LENGTH, DIM = 2, 140, 16
LENGTHS_OF_DOCUMENTS = [30, 7, 43, 60]
START = np.repeat([0, 30, 37, 80], LENGTHS_OF_DOCUMENTS).astype(np.int32)
END = np.repeat([30, 37, 80, 140], LENGTHS_OF_DOCUMENTS)  # int64
KEEP = np.arange(LENGTH) % 3 != 0


MASKS: dict[str, Callable[..., Any]] = {
    "causal": lambda b, h, q, kv: q >= kv,
    "sinks": lambda b, h, q, kv: q >= kv and (kv < 4 or q - kv < 30),
    "first and last see all": lambda b, h, q, kv: abs(q - kv) < 20 or q >= 120 or kv < 5 or q < 9,
    "causal documents by start": lambda b, h, q, kv: START[q] <= kv <= q,
    "documents by start and end": lambda b, h, q, kv: kv >= START[q] and kv < END[q],
    "rows that count": lambda b, h, q, kv: KEEP[q] and kv >= q - 30,
    "block diffusion": block_diffusion(70, 8),
}


def results(mask: Any, backend: str = "triton") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, HEADS, LENGTH, DIM, generator=generator, requires_grad=True)
        for _ in range(3)
    )
    out, lse = fx.attention(q, k, v, mask=mask, return_lse=True, backend=backend)
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    return [out.detach(), lse.detach(), *gradients]


def plan_of(mask: fx.Mod) -> BlockPlan:
    """The plan of the tile that the forward kernel has."""
    (config, *_) = configs(Phase.FORWARD, 0, DIM, 4)
    return fx.plan(mask, LENGTH, LENGTH, heads=HEADS, tile=config.tile)


@pytest.mark.parametrize("name", MASKS)
def test_both_kinds_give_the_same_bits(name: str) -> None:
    mask = fx.mask_mod(MASKS[name])
    plan = plan_of(mask)
    assert plan.kind == "closed-form"
    closed, table = results(plan), results(as_table(plan))
    for x, y in zip(closed[:2], table[:2], strict=True):
        assert torch.equal(x, y)
    for x, y in zip(closed, results(mask, "reference"), strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=2e-5)


IDS = np.repeat(np.arange(4), LENGTHS_OF_DOCUMENTS).astype(np.int32)
BLOCKS = torch.rand(LENGTH // 10, LENGTH // 10, generator=torch.Generator().manual_seed(2)) < 0.4
READ_THERE: dict[str, Callable[..., Any]] = {
    "documents": lambda b, h, q, kv: IDS[q] == IDS[kv] and q >= kv,
    "keys that count": lambda b, h, q, kv: KEEP[kv] or q == kv,
    "blocks": lambda b, h, q, kv: BLOCKS[q // 10, kv // 10],
    "documents by start and end": MASKS["documents by start and end"],
}


@pytest.mark.parametrize("name", READ_THERE)
def test_a_table_of_a_kernel_gives_the_same_bits(name: str) -> None:
    mask = fx.mask_mod(READ_THERE[name])
    host = plan_of(mask)
    there = fx.plan(mask, LENGTH, LENGTH, heads=HEADS, tile=host.tile_shape, device="cpu")
    assert (host.kind, there.kind) in {("table", "device"), ("closed-form", "device")}
    expected = results(host)
    for x, y in zip(results(there)[:2], expected[:2], strict=True):
        assert torch.equal(x, y)
    for x, y in zip(results(as_table(host))[:2], expected[:2], strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("make", [stdlib.document, stdlib.document_causal])
def test_documents_by_offsets_need_no_table_forward(make: Callable[..., fx.Mod]) -> None:
    """Unread, as on a device: bounds by rows forward, and the planning kernel's table of keys."""
    mask = make(offsets=torch.tensor([0, *np.cumsum(LENGTHS_OF_DOCUMENTS).tolist()]))
    host = plan_of(mask)
    there = fx.plan(mask, LENGTH, LENGTH, heads=HEADS, tile=host.tile_shape, device="cpu")
    assert (there.kind, there.transposed().kind) == ("closed-form", "device")
    found = results(there)
    for other in (results(host), results(as_table(host)), results(plan_of(make(IDS)))):
        for x, y in zip(found[:2], other[:2], strict=True):
            assert torch.equal(x, y)
        for x, y in zip(found[2:], other[2:], strict=True):
            torch.testing.assert_close(x, y, atol=2e-5, rtol=2e-5)
    # Other contents in the same tensors, such as no documents have.
    generator = torch.Generator().manual_seed(1)
    for tensor in mask.program.values.values():
        tensor.copy_(torch.randint(-9, LENGTH + 9, (LENGTH,), generator=generator))
    for x, y in zip(results(there), results(mask, "reference"), strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=2e-5)


def test_a_closed_form_serves_whatever_a_captured_tensor_comes_to_hold() -> None:
    """What a CUDA graph does: the plan of before, and other contents in the same tensor."""
    start = torch.from_numpy(START.copy())
    mask = fx.mask_mod(lambda b, h, q, kv: kv >= start[q] and kv <= q)
    plan = plan_of(mask)
    assert plan.kind == "closed-form"
    generator = torch.Generator().manual_seed(1)
    start.copy_(torch.randint(0, 100, (LENGTH,), generator=generator))
    for x, y in zip(results(plan), results(mask, "reference"), strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=2e-5)


def test_no_mask_where_every_live_tile_is_full() -> None:
    (config, *_) = configs(Phase.FORWARD, 0, DIM, 4)
    rows, columns = config.tile
    assert rows < LENGTH
    aligned = fx.mask_mod(lambda b, h, q, kv: q // rows >= kv // rows)
    plan = fx.plan(aligned, LENGTH, LENGTH, tile=config.tile)
    assert rows % columns == 0 and not plan.needs_mask
    assert plan_of(fx.mask_mod(MASKS["causal"])).needs_mask
    before = set(launch._KERNELS)
    for x, y in zip(results(aligned), results(aligned, "reference"), strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=2e-5)
    made = [k.source for key, k in launch._KERNELS.items() if key not in before]
    assert made and all("allowed =" not in source for source in made)
    # What a captured tensor holds may change: its mask stays.
    held = np.ones(LENGTH, bool)
    captured = fx.mask_mod(lambda b, h, q, kv: held[q])
    assert fx.plan(captured, LENGTH, LENGTH).needs_mask
