"""What the text of a Hopper forward kernel gives, on numbers, in any interleaving.

The forward pass runs as on such a GPU (`text_on_numbers.py`).
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.codegen import Phase
from flexdsl.codegen.hopper.row_bits import row_intervals
from flexdsl.codegen.hopper.tangent import tangent_of
from flexdsl.runtime import mask_bits, triton_forward
from tests.codegen.test_query_sums import WITHOUT_GPU
from tests.codegen.text_on_numbers import DIMS, OnNumbers, bound_of
from tests.codegen.variants import BOUNDED, TANGENTS, VARIANTS, Variant


def expect_on_numbers(
    variant: Variant,
    dims: tuple[int, int],
    lengths: tuple[int, int, int],
    heads: tuple[int, int] = (4, 4),
    seed: int = 0,
    fault: tuple[str, str] = ("", ""),
    dtype: torch.dtype = torch.float16,
) -> OnNumbers:
    """Hold output and logsumexp against the dense reference in float64."""
    (q_len, kv_len, offset), (of_queries, of_keys), (dim, value_dim) = lengths, heads, dims
    generator = torch.Generator().manual_seed(seed + q_len + dim)
    shapes = [(of_queries, q_len, dim), (of_keys, kv_len, dim), (of_keys, kv_len, value_dim)]
    q, k, v = (torch.randn(1, *s, generator=generator).to(dtype) for s in shapes)
    kernels = OnNumbers(Phase.FORWARD, seed, fault)
    bound = bound_of(variant, (q, k, v), offset)
    found = triton_forward.forward(kernels, bound, dim**-0.5, q, k, v)(q, k, v)
    mods = {"mask": variant.mask, "score": variant.score, "q_offset": offset, "return_lse": True}
    wanted = fx.attention(q.double(), k.double(), v.double(), **mods, backend="reference")
    for name, x, y in zip(("out", "lse"), found, wanted, strict=True):
        near(name, x, y, 4e-3 if dtype is torch.float16 else 2e-2)
    return kernels


def near(name: str, found: Tensor, wanted: Tensor, most: float) -> None:
    assert found.shape == wanted.shape
    finite = wanted.isfinite()
    assert torch.equal(found.isfinite(), finite), name
    worst = (found.double() - wanted)[finite].abs().max() if finite.any() else 0.0
    assert worst < most, (name, float(worst))


NAMES = ("full", "causal", "sliding_window", "sinks", "packed_causal", "document", "strided_heads")
NAMES += ("softcap", "alibi", "relative_bias", "products", "decay")


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_output_of_variants(name: str, dims: tuple[int, int]) -> None:
    expect_on_numbers(VARIANTS[name], dims, (96, 96, 0))


def windows_of_heads(b, h, q, kv):
    return q >= kv and q - kv < 17 * (h + 1)


def around(b, h, q, kv):
    return abs(q - kv) < 40 or kv < 3 or kv >= 250


MASKS = {
    "a window": fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < 70),
    "a window of each head": fx.mask_mod(windows_of_heads),
    "three intervals": fx.mask_mod(around),
    "blocks": fx.mask_mod(lambda b, h, q, kv: q // 32 >= kv // 32 and kv // 32 >= q // 32 - 3),
    "rows without keys": fx.mask_mod(lambda b, h, q, kv: q < kv - 100 and kv - q < 120),
    "documents": stdlib.document_causal(offsets=[0, 1, 70, 190, 290]),
}


@WITHOUT_GPU
@pytest.mark.parametrize("dims", [(64, 64), (128, 128), (256, 256)], ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_masks_by_the_ends_of_rows(
    name: str, dims: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths that tiles do not divide, and queries that begin later."""
    monkeypatch.setattr(mask_bits, "with_table", lambda bound, plan: plan)
    for seed in range(2):
        kernels = expect_on_numbers(Variant(MASKS[name]), dims, (200, 290, 90), (2, 1), seed)
        assert all(map(row_intervals, kernels.specs))


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("lengths", [(1, 200, 199), (130, 70, 0), (192, 256, 0)])
def test_output_of_lengths(lengths: tuple[int, int, int], dims: tuple[int, int]) -> None:
    for name in ("causal", "full"):
        expect_on_numbers(VARIANTS[name], dims, lengths, (4, 2), seed=1)


@WITHOUT_GPU
@pytest.mark.parametrize("name", TANGENTS)
def test_scores_that_are_tangents(name: str) -> None:
    """Some rows have no key, whose scores would be nothing times infinity where cap is 0."""
    variant = Variant(MASKS["rows without keys"], TANGENTS[name])
    for dims in ((64, 64), (128, 128)):
        kernels = expect_on_numbers(variant, dims, (200, 290, 0))
        assert all(map(tangent_of, kernels.specs))


@WITHOUT_GPU
@pytest.mark.parametrize("name", BOUNDED)
def test_scores_without_a_maximum(name: str) -> None:
    """Some rows have no key; float16 has no weights as large as these may be."""
    variant = Variant(MASKS["rows without keys"], BOUNDED[name])
    for dims in ((64, 64), (128, 128)):
        for dtype, bounded in (torch.bfloat16, True), (torch.float16, False):
            kernels = expect_on_numbers(variant, dims, (200, 290, 0), dtype=dtype)
            assert all(spec.bounded is bounded for spec in kernels.specs)
            assert kernels.specs


@WITHOUT_GPU
@pytest.mark.parametrize("name", ["causal", "decay", "products", "relative_bias"])
def test_other_scores_keep_it(name: str) -> None:
    """Tables and products of a call are of its kernels, and nothing that a score is proven by."""
    kernels = expect_on_numbers(VARIANTS[name], (64, 64), (96, 96, 0), dtype=torch.bfloat16)
    assert not any(spec.bounded for spec in kernels.specs)


@WITHOUT_GPU
def test_skipped_tiles_without_a_maximum() -> None:
    """Stretches of tiles follow each other, and no output is rescaled between them."""
    variant = Variant(fx.mask_mod(near_on_a_grid), BOUNDED["of wide range"])
    kernels = expect_on_numbers(variant, (128, 128), (300, 310, 0), (2, 1), dtype=torch.bfloat16)
    assert all(spec.bounded and spec.skips for spec in kernels.specs)


def near_on_a_grid(b, h, q, kv):
    return abs(q // 20 - kv // 20) <= 1 and abs(q % 20 - kv % 20) <= 4


@WITHOUT_GPU
@pytest.mark.parametrize("dims", [(64, 64), (128, 128)], ids=str)
def test_masks_read_as_bits(dims: tuple[int, int]) -> None:
    """At D 128 consumers skip tiles, of 64 keys: the grid has 20 tokens in a row."""
    variant = Variant(fx.mask_mod(near_on_a_grid))
    for seed in range(2):
        kernels = expect_on_numbers(variant, dims, (300, 310, 0), (2, 1), seed)
        (spec,), ((_, keys),) = kernels.specs, kernels.tiles
        assert spec.mask_bits
        assert (spec.skips, keys) == ((True, 64) if dims == (128, 128) else (False, 128))


CHOSEN = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.3
CHOSEN[:, 2] = False  # rows without any key
CHOSEN[:, 1, 5], CHOSEN[:, 3:5, 0] = True, True
PICKS = torch.tensor([[4, 2], [5, 3], [0, 5], [1, 1], [0, 2], [3, 1]], dtype=torch.int32)
BLOCKS = {
    "BigBird": stdlib.bigbird(PICKS),
    "of each head": stdlib.block_table(CHOSEN, 64),
    "wide ones": stdlib.block_table(CHOSEN[0, :, :3].clone(), (64, 128)),
    "causal": stdlib.block_table(CHOSEN, 64) & stdlib.causal(),
}


def expect_blocks(variant: Variant, *args: Any, **options: Any) -> None:
    """Hold a kernel against the reference of which the consumers skip blocks."""
    kernels = expect_on_numbers(variant, *args, **options)
    (spec,), (tile,) = kernels.specs, kernels.tiles
    assert spec.skips and not spec.mask_bits and tile == (128, 64)


@WITHOUT_GPU
@pytest.mark.parametrize("dims", [(64, 64), (128, 128), (256, 256)], ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_that_captured_tensors_choose(name: str, dims: tuple[int, int]) -> None:
    """Lengths that blocks do not divide, grouped heads, and queries that begin a block later."""
    expect_blocks(Variant(BLOCKS[name]), dims, (330, 340, 0), (2, 1))
    if dims == (128, 128):
        expect_blocks(Variant(BLOCKS[name]), dims, (200, 384, 64), (2, 1), seed=1)


@WITHOUT_GPU
@pytest.mark.parametrize("score", ["softcap", "alibi", "bounded"])
def test_scores_of_chosen_blocks(score: str) -> None:
    """Those that are loaded, too, and the one that needs no maximum."""
    mod = BOUNDED["of wide range"] if score == "bounded" else VARIANTS[score].score
    dtype = torch.bfloat16 if score == "bounded" else torch.float16
    variant = Variant(BLOCKS["of each head"], mod)
    expect_blocks(variant, (128, 128), (330, 340, 0), (2, 1), dtype=dtype)


@WITHOUT_GPU
def test_blocks_that_begin_within_a_query_tile_are_not_skipped() -> None:
    kernels = expect_on_numbers(Variant(BLOCKS["of each head"]), (128, 128), (200, 340, 32), (2, 1))
    assert not any(spec.skips for spec in kernels.specs) and kernels.specs


FAULTS = {
    "another column": ("first_column, column_stop", "first_column - 1, column_stop", "out"),
    "the end of the keys": ("kv_len - kv_tile * BLOCK_N", "BLOCK_N", "out|lse"),
    "a tile that is not masked": ("if masked:", "if False:", "out"),
    "keys of another tile": ("stage = at % STAGES", "stage = (at + 1) % STAGES", "out|wait|come"),
}


@WITHOUT_GPU
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_bits, "with_table", lambda bound, plan: plan)
    old, new, message = FAULTS[name]
    with pytest.raises((AssertionError, TypeError), match=message):
        variant = Variant(MASKS["three intervals"])
        expect_on_numbers(variant, (128, 128), (200, 290, 90), fault=(old, new))


ENDS = torch.arange(500) // 60 * 60


@st.composite
def conditions(draw: st.DrawFn) -> fx.Mod:
    """A mask of up to three conditions that closed forms are found for, over several tiles."""
    n, m = draw(st.integers(-40, 250)), draw(st.integers(0, 300))
    size, other = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    atoms = [
        lambda b, h, q, kv: q + n >= kv,
        lambda b, h, q, kv: q - kv < m,
        lambda b, h, q, kv: kv < m + 20 * h,
        lambda b, h, q, kv: kv >= q - n,
        lambda b, h, q, kv: q // size >= kv // size,
        lambda b, h, q, kv: q // size == kv // other,
        lambda b, h, q, kv: 2 * kv - q <= n,
        lambda b, h, q, kv: 2 * q - kv >= n,
        lambda b, h, q, kv: q + kv < 3 * size,
        lambda b, h, q, kv: q >= size,
        lambda b, h, q, kv: kv >= ENDS[q],
        lambda b, h, q, kv: kv < ENDS[q] + size,
    ]
    masks = [fx.mask_mod(draw(st.sampled_from(atoms))) for _ in range(draw(st.integers(1, 3)))]
    found = masks[0]
    for mask in masks[1:]:
        found = found & mask if draw(st.booleans()) else found | mask
    return found


@WITHOUT_GPU
@settings(max_examples=30)
@given(
    conditions(),
    st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(0, 150)),
    st.sampled_from([(64, 64), (128, 128), (256, 256)]),
    st.integers(0, 99),
    st.booleans(),
)
def test_any_conditions(
    mask: fx.Mod, lengths: tuple[int, int, int], dims: tuple[int, int], seed: int, bits: bool
) -> None:
    """With tables where they have bits, and with closed forms wherever there are some."""
    as_runtime = mask_bits.with_table
    with patch.object(mask_bits, "with_table", as_runtime if bits else lambda bound, plan: plan):
        expect_on_numbers(Variant(mask), dims, lengths, (2, 1), seed)
