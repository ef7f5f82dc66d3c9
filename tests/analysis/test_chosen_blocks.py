"""Of which sizes the blocks are that captured numbers choose, by the form of a mask alone."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis.chosen_blocks import chosen_blocks
from flexdsl.mod import Mod
from support.masks import Function, Mask, Table, both, either, no

SIZE = 128  # that of a query tile, of which positions are multiples
RNG = np.random.default_rng(0)
SEEN = RNG.random((9, 9)) < 0.4
BY_HEAD = RNG.random((2, 9, 9)) < 0.4
DRAWN = RNG.integers(0, 9, (9, 2))
IDS = np.arange(600) // 50
ENDS = np.array([70, 300])


def later(shift: int) -> Mod:
    """A table of blocks that begin before position 0, by a parameter of the mask."""
    return fx.mask_mod(lambda b, h, q, kv: SEEN[(q + shift) // 64, kv // 64])


CHOSEN: dict[str, tuple[Mod, tuple[int, int]]] = {
    "64": (stdlib.block_table(SEEN, 64), (64, 64)),
    "128": (stdlib.block_table(SEEN, 128), (128, 128)),
    "more than a tile": (stdlib.block_table(SEEN, 256), (128, 128)),
    "64 by 128": (stdlib.block_table(SEEN, (64, 128)), (64, 128)),
    "128 by 64": (stdlib.block_table(SEEN, (128, 64)), (128, 64)),
    "32": (stdlib.block_table(SEEN, 32), (32, 32)),
    "96": (stdlib.block_table(SEEN, 96), (32, 32)),
    "of each head": (stdlib.block_table(BY_HEAD, 64), (64, 64)),
    "by a shift": (fx.mask_mod(lambda b, h, q, kv: SEEN[q >> 6, kv >> 7]), (64, 128)),
    "two tables": (
        stdlib.block_table(SEEN, (64, 128)) | stdlib.block_table(SEEN, (128, 32)),
        (64, 32),
    ),
    "a table and its contrary": (
        stdlib.block_table(SEEN, 128) & ~stdlib.block_table(SEEN, 64),
        (64, 64),
    ),
    "with a causal mask": (stdlib.block_table(SEEN, 64) & stdlib.causal(), (64, 64)),
    "or a window": (stdlib.block_table(SEEN, 64) | stdlib.sliding_window(9), (64, 64)),
    "BigBird": (stdlib.bigbird(DRAWN), (64, 64)),
    "BigBird of 32": (stdlib.bigbird(DRAWN, 32), (32, 32)),
    "from a block on": (fx.mask_mod(lambda b, h, q, kv: SEEN[(q + 64) // 64, kv // 64]), (64, 64)),
    "from half a block on": (
        fx.mask_mod(lambda b, h, q, kv: SEEN[(q + 32) // 64, (kv + 64) // 64]),
        (32, 64),
    ),
    "from the next token on": (
        fx.mask_mod(lambda b, h, q, kv: SEEN[(q + 1) // 64, kv // 64]),
        (1, 64),
    ),
    "of three tokens": (fx.mask_mod(lambda b, h, q, kv: SEEN[q // 192, kv // 3]), (64, 1)),
    "from somewhere on": (later(64), (1, 64)),
    "documents": (stdlib.document(IDS), (1, 1)),
    "documents of blocks": (fx.mask_mod(lambda b, h, q, kv: IDS[q // 64] == IDS[kv]), (64, 1)),
    "rows alone": (fx.mask_mod(lambda b, h, q, kv: IDS[q // 64] > 0), (64, SIZE)),
    "a number beside a position": (
        fx.mask_mod(lambda b, h, q, kv: DRAWN[q // 64, 0] * 64 > kv),
        (64, 1),
    ),
    "within a choice": (
        fx.mask_mod(lambda b, h, q, kv: fx.where(h == 0, SEEN[q // 64, kv // 64], q >= kv)),
        (1, 1),
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_sizes_of_blocks(name: str) -> None:
    mask, sizes = CHOSEN[name]
    assert chosen_blocks(mask.program.expr, SIZE) == sizes


CHOOSING_NONE: dict[str, Mod] = {
    "causal": stdlib.causal(),
    "blocks without a table": fx.mask_mod(lambda b, h, q, kv: q // 64 >= kv // 64),
    "a number of each head": fx.mask_mod(lambda b, h, q, kv: kv < ENDS[h]),
    "a window of each head": fx.mask_mod(lambda b, h, q, kv: q - kv < ENDS[h] and q >= kv),
    "nothing": fx.mask_mod(lambda b, h, q, kv: False),
}


@pytest.mark.parametrize("name", CHOOSING_NONE)
def test_masks_that_choose_no_blocks(name: str) -> None:
    assert chosen_blocks(CHOOSING_NONE[name].program.expr, SIZE) is None


LENGTH = 512
WIDE = LENGTH + 64
# One for each condition of a mask: of conditions on the same numbers some may follow from others.
FLAGS = [Table(f"flags{n}", RNG.random((WIDE, WIDE)) < 0.5) for n in range(3)]
PICKS = [Table(f"picks{n}", RNG.integers(0, 9, WIDE)) for n in range(3)]
Sizes = tuple[int, int]


@st.composite
def conditions(draw: st.DrawFn, number: int) -> tuple[Function, Sizes]:
    """One that looks up a table by blocks, and the sizes that it keeps of those of a tile."""
    by_rows, by_keys = (draw(st.sampled_from([16, 24, 32, 64, 96, 128, 192])) for _ in "qk")
    of_rows, of_keys = (draw(st.sampled_from([0, 0, 0, 8, 32, 64])) for _ in "qk")

    def flag(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return FLAGS[number][(q + of_rows) // by_rows, (kv + of_keys) // by_keys]

    def pick(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return PICKS[number][(q + of_rows) // by_rows] == (kv + of_keys) // by_keys

    sizes = gcd(SIZE, by_rows, of_rows), gcd(SIZE, by_keys, of_keys)
    return draw(st.sampled_from([flag, pick])), sizes


@st.composite
def masks(draw: st.DrawFn) -> tuple[Function, Sizes]:
    """Some conditions joined, and the sizes that all of them keep."""
    drawn = [draw(conditions(n)) for n in range(draw(st.integers(1, 3)))]
    joins = [draw(st.sampled_from([both, either])) for _ in drawn]
    negated = [draw(st.booleans()) for _ in drawn]

    def mask(*at: Any) -> Any:
        found = None
        for (function, _), join, other in zip(drawn, joins, negated, strict=True):
            seen = no(function(*at)) if other else function(*at)
            found = seen if found is None else join(found, seen)
        return found

    rows, keys = zip(*(sizes for _, sizes in drawn), strict=True)
    return mask, (gcd(*rows), gcd(*keys))


PLACES = st.tuples(*(st.integers(0, LENGTH - 1) for _ in range(4)))


@given(masks(), st.lists(PLACES, min_size=40, max_size=40))
def test_no_position_of_a_block_differs(
    drawn: tuple[Function, Sizes], places: list[tuple[int, int, int, int]]
) -> None:
    """By the mask on plain ints; a condition without numbers changes no size."""
    function, sizes = drawn
    for mask in function, lambda b, h, q, kv: both(q >= kv, function(b, h, q, kv)):
        expr = Mask(mask, {}, (*FLAGS, *PICKS)).program().expr
        assert chosen_blocks(expr, SIZE) == sizes
    for q, kv, row, key in places:
        first = q - q % sizes[0], kv - kv % sizes[1]
        other = first[0] + row % sizes[0], first[1] + key % sizes[1]
        assert function(0, 0, q, kv) == function(0, 0, *other)
