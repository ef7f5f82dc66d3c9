"""Kernels of a bundle that read their mask as bits: what they get, and when they are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.bundle.describe import describe
from flexdsl.bundle.files import Bundle
from flexdsl.runtime import bind, mask_bits
from tests.aot.conftest import near
from tests.aot.emulation import Emulated, Launch, tensor_at
from tests.runtime.test_mask_bits import allowed_of

ROWS, KEYS = 300, 330


def told(launch: Launch) -> dict[str, Any]:
    """What a kernel got for its arguments that are one word."""
    pairs = zip(launch.code.parameters, launch.values, strict=True)
    return {p.argument.name: words[0] for p, words in pairs}


def attend(bundle: Bundle, keys: int = KEYS, q_offset: int = 0, **values: Any) -> None:
    """The forward and the backward pass of a call, whose plan is made for it."""
    bind.forget()
    sizes = (2, ROWS - q_offset), (2, keys), (2, keys)
    leaves = [torch.zeros(1, *s, 128, dtype=torch.bfloat16, requires_grad=True) for s in sizes]
    out = fx.load(bundle.folder, **values)(*leaves, q_offset=q_offset)
    torch.autograd.grad(out.sum(), leaves)


def phases(gpu: Emulated) -> list[tuple[str, str]]:
    return [(launch.code.phase, launch.code.plan) for launch in gpu.launches]


def test_both_passes_read_bits(grid: Bundle, grid_gpu: Emulated) -> None:
    attend(grid)
    assert phases(grid_gpu) == [
        ("mask_bits", "none"),
        ("forward", "bits"),
        ("backward_rows", "none"),
        ("mask_bits_key", "none"),
        ("backward", "bits"),
        ("backward_sums", "none"),
    ]
    for made, read in ((0, 1), (3, 4)):
        writes, reads = told(grid_gpu.launches[made]), told(grid_gpu.launches[read])
        assert writes["mask_words"] == reads["mask_words"]
        for name in ("offsets", "full_ends", "starts", "stops", "first_bits"):
            assert writes[name] == reads[name]


def test_the_bits_are_the_mask(grid: Bundle, grid_gpu: Emulated) -> None:
    """Of the first masked tile of each tile of queries, by the table that the kernel gets."""
    attend(grid)
    given = told(grid_gpu.launches[1])
    tile = grid_gpu.launches[1].code.tile
    dense = np.array([[near()(0, 0, q, kv) for kv in range(KEYS)] for q in range(ROWS)])
    rows = -(-ROWS // tile[0])
    offsets = tensor_at(given["offsets"], "i32", rows + 1).tolist()
    starts = tensor_at(given["starts"], "i32", offsets[-1]).tolist()
    first_bits = tensor_at(given["first_bits"], "i32", rows).tolist()
    assert first_bits[0] == 2 and first_bits == sorted(first_bits)
    for row, first in enumerate(first_bits):
        size = tile[0] * tile[1] // 32
        words = tensor_at(given["mask_words"] + 4 * first * size, "i32", size)
        found, start = allowed_of(words, tile)[0], starts[offsets[row]]
        part = dense[row * tile[0] :, start * tile[1] :][: tile[0], : tile[1]]
        assert np.array_equal(found[: part.shape[0], : part.shape[1]], part) and part.any()


def test_where_bits_take_too_much_the_mask_is_evaluated(
    grid: Bundle, grid_gpu: Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_bits, "MOST_MIB", 0)
    attend(grid)
    assert ("forward", "table") in phases(grid_gpu) and ("backward", "table") in phases(grid_gpu)
    assert not any("bits" in part for of in phases(grid_gpu) for part in of)


def test_a_bundle_says_which_kernels_read_bits(grid: Bundle) -> None:
    lines = [n.strip() for n in describe(grid).splitlines()]
    assert sum("table of runs, mask as bits" in n for n in lines) == 2
    assert sum(n.startswith(("mask_bits:", "mask_bits_key:")) for n in lines) == 2
    assert sum(n.endswith("table of runs") or "table of runs, " in n for n in lines) == 4


def test_a_launcher_in_c_evaluates_the_mask(grid: Bundle) -> None:
    text = grid.bytes_of("near.c").decode()
    assert "mask_words" not in text and "forward" in text
