"""The lines by which Hopper's kernels read bits, run on plain numbers, thread by thread.

Gluon has no interpreter: numpy's functions stand for its own here. That no word leaves its thread
is asserted where the kernels are compiled too (`tests/aot/test_compile.py`).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flexdsl.codegen.hopper import mask_bits
from flexdsl.codegen.hopper.works import FULL, MASKED
from flexdsl.codegen.loops import KEYS, QUERIES, Axis
from flexdsl.codegen.lower import Lowering
from flexdsl.codegen.mask_bits import bytes_of_tile
from flexdsl.codegen.writer import Block, Names


class Tensor(np.ndarray[Any, Any]):
    """Numbers with what the lines ask of a tensor of Gluon's."""

    def permute(self, axes: tuple[int, ...]) -> Any:
        return self.transpose(axes)

    @property
    def type(self) -> Any:
        return SimpleNamespace(layout=None)


def names(axis: Axis, inner: int, memory: Any) -> dict[str, Any]:
    """What the lines find around them: consumer 1 of two, at tile 3 of bits."""
    gl = SimpleNamespace(
        constexpr=int,
        int32=np.int32,
        arange=lambda start, stop, layout: np.arange(start, stop).view(Tensor),
        load=lambda at, mask=True, other=0: memory[at].view(Tensor) if mask else 0 * at + other,
        full=lambda shape, value, dtype, layout: np.full(shape, value, dtype),
        broadcast=lambda x, y: [n.view(Tensor) for n in np.broadcast_arrays(x, y)],
        convert_layout=lambda x, layout, assert_trivial: x,
        SliceLayout=lambda axis, layout: None,
        BlockedLayout=lambda *layout: layout,
    )
    gluon = SimpleNamespace(jit=lambda function: function)
    here = {"bits_tile": 3, "GROUP": 1, "mask_words": 0, "SCORES": None, axis.block: inner}
    return {"gl": gl, "gluon": gluon, **here}


def run(axis: Axis, inner: int, memory: Any, *following: int) -> dict[str, Any]:
    """The names after the lines have run.

    Args:
        following: the kind of each tile after the first one.
    """
    block, known = Block(0), names(axis, inner, memory)
    lowering = Lowering(Names(set()), language="gl")
    mask_bits.write_layout(block, axis)
    mask_bits.write_place(block, axis, 2)
    mask_bits.write_words(block, "", lowering)
    for kind in following:
        block.line(f"after = {kind}")
        mask_bits.write_next_words(block, axis, 2, lowering)
    block.line(f"allowed = {mask_bits.allowed(axis)}")
    block.line(f"spread_words = spread(words, {axis.block}, SCORES)")
    exec(mask_bits.SPREAD, known)
    exec(str(block), known)
    return known


CASES = [(KEYS, 64), (KEYS, 128), (QUERIES, 64), (QUERIES, 128)]


@pytest.mark.parametrize(("axis", "inner"), CASES)
def test_each_thread_has_the_bits_of_its_own_scores(axis: Axis, inner: int) -> None:
    """Which scores a thread has: PTX ISA, wgmma, accumulator D of m64nN."""
    tile = bytes_of_tile(128, inner) // 4
    memory = np.arange(8 * tile)  # each word is its own address
    found = run(axis, inner, memory)
    of_thread = inner // 64
    assert found["WORDS"] == ([of_thread], [32], [4], [0])
    first = 3 * tile + tile // 2  # of the consumer's
    np.testing.assert_array_equal(found["words"], np.arange(first, first + tile // 2))
    for thread in range(128):
        own = first + thread * of_thread
        for register in range(inner // 2):
            row = thread // 32 * 16 + thread % 32 // 4 + register // 2 % 2 * 8
            column = register // 4 * 8 + thread % 4 * 2 + register % 2
            assert found["spread_words"][row, column] == own + register // 32
            assert found["bit"][row, column] == 1 << register % 32


@pytest.mark.parametrize(("axis", "inner"), CASES)
def test_a_score_counts_where_its_bit_is_set(axis: Axis, inner: int) -> None:
    memory = np.random.default_rng(1).integers(0, 2**32, 8 * bytes_of_tile(128, inner) // 4)
    found = run(axis, inner, memory)
    wanted = found["spread_words"] >> np.log2(found["bit"]).astype(int) & 1 == 1
    np.testing.assert_array_equal(found["allowed"], wanted)
    assert 0.4 < wanted.mean() < 0.6


def test_words_of_the_next_tile_are_loaded_where_it_is_masked() -> None:
    tile = bytes_of_tile(128, 64) // 4
    memory = np.arange(8 * tile)
    found = run(QUERIES, 64, memory, MASKED, MASKED)
    first = 5 * tile + tile // 2
    np.testing.assert_array_equal(found["words"], np.arange(first, first + tile // 2))
    assert not run(QUERIES, 64, memory, MASKED, FULL)["words"].any()
