"""What the text of a Hopper forward kernel gives, on numbers, in any interleaving.

As `test_backward_numbers.py`: plan, tables and arguments are the runtime's, and the texts of the
producer and of the consumers are Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.codegen import Kernel, KernelSpec, Phase
from flexdsl.codegen.hopper.row_bits import row_intervals
from flexdsl.runtime import bind, device_plan, launch, mask_bits, triton_forward
from flexdsl.runtime.call import Call, table_of, value_of
from support.on_numbers import Address, Language, Numbers, Tile
from tests.codegen.test_backward_numbers import (
    DIMS,
    argument_of,
    consumer_knows,
    one_thread,
    with_helpers,
)
from tests.codegen.test_backward_sides import shared_of, side
from tests.codegen.test_query_sums import WITHOUT_GPU
from tests.codegen.test_skipped_tiles import Alone
from tests.codegen.variants import VARIANTS, Variant

__all__ = ["one_thread"]


class Producer(Alone):
    """What a producer calls; ends of rows are tensors."""

    def load(self, at: Any, mask: Any = True, other: int = 0) -> Any:
        return Language().load(at) if isinstance(at, Address) else super().load(at, mask, other)

    def arange(self, first: int, last: int, layout: Any) -> Tensor:
        return torch.arange(first, last)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, Tensor):
            return torch.where(condition, a, b)
        return super().where(condition, a, b)

    def minimum(self, a: Any, b: Any) -> Any:
        tensors = isinstance(a, Tensor) or isinstance(b, Tensor)
        return Language().minimum(a, b) if tensors else super().minimum(a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        tensors = isinstance(a, Tensor) or isinstance(b, Tensor)
        return Language().maximum(a, b) if tensors else super().maximum(a, b)

    def min(self, x: Tensor) -> int:
        return int(x.min())

    def max(self, x: Tensor) -> int:
        return int(x.max())


@dataclass
class OnNumbers:
    """The kernel of the forward pass, on numbers; those before it are interpreted.

    Attributes:
        seed: of the order in which the sides go on.
        fault: what is replaced in the text, and by what.
        specs: of the kernels that ran.
        tiles: theirs.
    """

    seed: int = 0
    fault: tuple[str, str] = ("", "")
    hopper: bool = True
    specs: list[KernelSpec] = field(default_factory=list[KernelSpec])
    tiles: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def backward_phases(self, call: Call) -> tuple[Phase, ...]:
        return ()

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        return True

    def run(self, phase: Phase, call: Call) -> None:
        if phase is not Phase.FORWARD:
            launch.run(phase, call)
            return
        config = launch.candidates(phase, call, 90)[0]
        plan = call.plan(phase, config)
        spec = call.spec(phase, plan, config)
        self.specs.append(spec)
        self.tiles.append(config.tile)
        kernel = launch.kernel_of(phase, config.language, spec)
        table = table_of(kernel.arguments, plan, call, device_plan.launch_compiled)
        given = shared_of(kernel, lambda of: Tile()) | config.constants
        for argument in kernel.arguments:
            value = value_of(argument, call, plan, table, config)
            given[argument.name] = argument_of(value, argument.role)
        self._run(kernel, given, spec.consumers)

    def _run(self, kernel: Kernel, given: dict[str, Any], groups: int) -> None:
        program, text = Numbers(self.seed), kernel.source.replace(*self.fault)
        assert not self.fault[0] or text != kernel.source
        known = {"gl": Producer(0), "leave": program.notes.__setitem__, "mbarrier": program}
        with_helpers(kernel, known)
        program.sides["producer"] = side(text, "producer", known | {"tma": program}, given)
        for group in range(groups):
            known = consumer_knows(program, 0) | {"in_pairs": lambda x, dtype: x.to(dtype)}
            with_helpers(kernel, known)
            own = side(text, "consumer", known, given | {"GROUP": group})
            program.sides[f"consumer {group}"] = own
        program.run()


def expect_on_numbers(
    variant: Variant,
    dims: tuple[int, int],
    lengths: tuple[int, int, int],
    heads: tuple[int, int] = (4, 4),
    seed: int = 0,
    fault: tuple[str, str] = ("", ""),
) -> OnNumbers:
    """Hold output and logsumexp against the dense reference in float64."""
    (q_len, kv_len, offset), (of_queries, of_keys), (dim, value_dim) = lengths, heads, dims
    generator = torch.Generator().manual_seed(seed + q_len + dim)
    shapes = [(of_queries, q_len, dim), (of_keys, kv_len, dim), (of_keys, kv_len, value_dim)]
    q, k, v = (torch.randn(1, *s, generator=generator).half() for s in shapes)
    sizes = bind.lengths_of(q, k, offset)
    sources = (None if m is None else m.program for m in (variant.mask, variant.score))
    reading = bind.read(*sources, sizes, q.device)
    bound = bind.bind(reading.mask, reading.score, sizes, (64, 64), ())
    kernels = OnNumbers(seed=seed, fault=fault)
    found = triton_forward.forward(kernels, bound, dim**-0.5, q, k, v)(q, k, v)
    mods = {"mask": variant.mask, "score": variant.score, "q_offset": offset, "return_lse": True}
    wanted = fx.attention(q.double(), k.double(), v.double(), **mods, backend="reference")
    for name, x, y in zip(("out", "lse"), found, wanted, strict=True):
        near(name, x, y)
    return kernels


def near(name: str, found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    finite = wanted.isfinite()
    assert torch.equal(found.isfinite(), finite), name
    worst = (found.double() - wanted)[finite].abs().max() if finite.any() else 0.0
    assert worst < 4e-3, (name, float(worst))


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
