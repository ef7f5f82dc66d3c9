"""The gradients that the text of a Hopper backward kernel gives, on numbers, in any interleaving.

The whole backward pass runs as on such a GPU (`text_on_numbers.py`).
"""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.codegen import Phase
from flexdsl.runtime import mask_bits, triton_backward
from tests.codegen.oracle import error, gradients
from tests.codegen.test_forward_numbers import conditions
from tests.codegen.test_query_sums import WITHOUT_GPU
from tests.codegen.text_on_numbers import DIMS, OnNumbers, bound_of
from tests.codegen.variants import VARIANTS, Variant


def backward_of(
    kernels: OnNumbers, variant: Variant, tensors: list[Tensor], d_out: Tensor, offset: int
) -> list[Tensor]:
    """Gradients of q, k and v by the text of the kernel."""
    q, k, v = tensors
    bound, scale = bound_of(variant, tensors, offset), q.shape[3] ** -0.5
    mods = {"mask": variant.mask, "score": variant.score, "q_offset": offset, "return_lse": True}
    out, lse = fx.attention(q.double(), k.double(), v.double(), **mods, backend="reference")
    given = q, k, v, out.half(), d_out, lse.float()
    return [*triton_backward.backward(kernels, bound, scale, *given)(*given)]


def expect_on_numbers(
    variant: Variant,
    dims: tuple[int, int],
    lengths: tuple[int, int, int],
    heads: tuple[int, int],
    seed: int,
    fault: tuple[str, str] = ("", ""),
    least: float = 0.0,
) -> OnNumbers:
    """Hold gradients against those of float64 autograd through the reference.

    Args:
        least: differences below it are none.
    """
    (q_len, kv_len, offset), (of_queries, of_keys), (dim, value_dim) = lengths, heads, dims
    generator = torch.Generator().manual_seed(seed + q_len + dim)
    shapes = [(of_queries, q_len, dim), (of_keys, kv_len, dim), (of_keys, kv_len, value_dim)]
    shapes += [(of_queries, q_len, value_dim)]
    *tensors, d_out = (torch.randn(1, *s, generator=generator).half() for s in shapes)
    kernels = OnNumbers(Phase.BACKWARD, seed, fault)
    found = backward_of(kernels, variant, tensors, d_out, offset)
    exact, none = [x.double() for x in tensors], torch.zeros(1, of_queries, q_len).double()
    incoming = [d_out.double(), none]
    wanted = gradients(variant.mask, variant.score, exact, incoming, "reference", q_offset=offset)
    for of, x, y in zip("qkv", found, wanted, strict=True):
        rounding = (x.double() - y).abs().max() < least
        assert x.shape == y.shape and (rounding or error(x, y) < 2e-3), (of, error(x, y))
    return kernels


NAMES = ("full", "causal", "sliding_window", "sinks", "document", "strided_heads")
NAMES += ("softcap", "alibi", "products", "decay")


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_variants(name: str, dims: tuple[int, int]) -> None:
    expect_on_numbers(VARIANTS[name], dims, (96, 96, 0), (4, 4), seed=0)


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("lengths", [(1, 200, 199), (130, 70, 0), (192, 256, 0)])
def test_gradients_of_lengths(lengths: tuple[int, int, int], dims: tuple[int, int]) -> None:
    for name in ("causal", "full"):
        expect_on_numbers(VARIANTS[name], dims, lengths, (2, 2), seed=1)


# Of each key the first and the last query are quotients by a power of two, which kernels shift.
SHIFTED = {
    "one end": fx.mask_mod(lambda b, h, q, kv: q * 2 >= kv),
    "both ends": fx.mask_mod(lambda b, h, q, kv: q * 2 >= kv and q * 4 - kv < 400),
    "blocks": fx.mask_mod(lambda b, h, q, kv: q >= kv // 64 * 32 and q // 16 * 2 <= kv // 4),
    "tiles that lie apart": fx.mask_mod(lambda b, h, q, kv: (q - kv // 2) % 150 < 2),
}


@WITHOUT_GPU
@pytest.mark.parametrize("dims", [(64, 64), (128, 128), (256, 256)], ids=str)
@pytest.mark.parametrize("name", SHIFTED)
def test_gradients_of_ends_that_are_shifted(name: str, dims: tuple[int, int]) -> None:
    """Queries begin later than keys, so that positions are no indices."""
    expect_on_numbers(Variant(SHIFTED[name]), dims, (200, 256, 56), (2, 1), seed=2)


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize(
    ("of_keys", "length", "enough"), [(4, 128, 1), (2, 150, 1), (1, 128, 1), (1, 150, 999)]
)
def test_gradients_of_heads_in_parts(
    of_keys: int, enough: int, length: int, dims: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in the memory of dQ and beside it, and dK and dV that launches add up."""
    monkeypatch.setattr(triton_backward, "_ENOUGH", enough)
    kernels = expect_on_numbers(VARIANTS["causal"], dims, (length, length, 0), (4, of_keys), seed=3)
    launches = {4: 2, 2: 4, 1: 4}[of_keys]  # halves, halves of each of two members, four members
    assert len(kernels.specs) == (launches if enough == 1 else 1)


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_gradients_of_a_mask_read_as_bits(
    dims: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a table, of which all heads are one launch, however much work that is."""
    monkeypatch.setattr(triton_backward, "_ENOUGH", 1)
    variant = VARIANTS["neighborhood"]
    kernels = expect_on_numbers(variant, dims, (150, 150, 0), (4, 4), seed=5)
    (spec,) = kernels.specs
    assert spec.mask_bits


DRAWN = torch.Generator().manual_seed(0)
OF_HEADS = stdlib.block_table(torch.rand(2, 6, 6, generator=DRAWN) < 0.3, 64)
# Some rows have no key, and some keys no row.
BLOCKS = {
    "of heads": OF_HEADS,
    "and causal": OF_HEADS & stdlib.causal(),
    "of two sizes": stdlib.block_table(torch.rand(6, 3, generator=DRAWN) < 0.3, (64, 128)),
    "bigbird": stdlib.bigbird(torch.randint(0, 6, (6, 2), generator=DRAWN).int()),
}


@WITHOUT_GPU
@pytest.mark.parametrize("lengths", [(330, 340, 0), (200, 384, 64)])
@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_of_blocks_that_tables_choose(name: str, lengths: tuple[int, int, int]) -> None:
    """Consumers skip tiles that have no pair for their own 64 keys."""
    variant = Variant(BLOCKS[name], VARIANTS["softcap"].score if name == "of heads" else None)
    kernels = expect_on_numbers(variant, (128, 128), lengths, (2, 1), seed=4)
    assert kernels.specs and all(s.skips and not s.mask_bits for s in kernels.specs)


@WITHOUT_GPU
@pytest.mark.parametrize("dim", [64, 256])
def test_blocks_of_other_tiles(dim: int) -> None:
    """Tiles of 128 queries have a part of most blocks, and those of 64 by 64 are blocks."""
    variant = Variant(BLOCKS["of heads"])
    kernels = expect_on_numbers(variant, (dim, dim), (330, 340, 0), (2, 1), seed=4)
    assert kernels.specs and not any(spec.skips for spec in kernels.specs)


@WITHOUT_GPU
@settings(max_examples=30)
@given(
    conditions(),
    st.tuples(st.integers(1, 200), st.integers(1, 300), st.integers(0, 150)),
    st.sampled_from([(64, 64), (128, 128), (256, 256)]),
    st.integers(0, 99),
)
def test_gradients_of_any_conditions(
    mask: fx.Mod, lengths: tuple[int, int, int], dims: tuple[int, int], seed: int
) -> None:
    """By closed forms wherever there are some; many rows may have no key.

    Where a row has one, its dQ is 0, and what is found is the rounding of O.
    """
    with patch.object(mask_bits, "with_table", lambda bound, plan: plan):
        expect_on_numbers(Variant(mask), dims, lengths, (2, 1), seed, least=3e-3)


FAULTS = {
    "columns of another part of dQ": (".slice(128, 128,", ".slice(0, 128,", "'q'"),
    "sums of another half": ("add_query_sums(right_sums", "add_query_sums(left_sums", "'q'"),
    "weights that are not masked": ("weights = keep_columns", "_ = keep_columns", "'q'"),
    "dS of another sign": ("- delta", "+ delta", "'q'"),
    "queries of another tile": ("stage = at % STAGES", "stage = (at + 1) % STAGES", "wait|come"),
    "a product that was not waited for": ("wait(0, deps=[d_w", "wait(1, deps=[d_w", "operand"),
}
FAULTS_OF_BLOCKS = {
    "dS of a tile before": ("d_scores = zero.to", "_ = zero.to", "'q'|d_scores"),
    "a tile of the other consumer": ("own = note & (4 << GROUP)", "own = note & (8 >> GROUP)", "'"),
    "rows that stay": ("last = counted(at - 1)\n        mbarrier", "mbarrier", "wait|come|twice"),
}


@WITHOUT_GPU
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str) -> None:
    *fault, message = FAULTS[name]
    with pytest.raises((AssertionError, TypeError), match=message):
        old, new = fault
        expect_on_numbers(VARIANTS["causal"], (256, 256), (150, 150, 0), (2, 2), 7, (old, new))


@WITHOUT_GPU
@pytest.mark.parametrize("name", FAULTS_OF_BLOCKS)
def test_faults_of_skipped_tiles_are_found(name: str) -> None:
    old, new, message = FAULTS_OF_BLOCKS[name]
    with pytest.raises((AssertionError, TypeError, NameError), match=message):
        variant = Variant(BLOCKS["of heads"])
        expect_on_numbers(variant, (128, 128), (384, 384, 0), (2, 1), 7, (old, new))
