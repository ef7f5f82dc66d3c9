"""Masks looked up by blocks: their table from one look a block is that of brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl.analysis import block_grid, make_plan
from support.masks import Mask, Shape, Table, both, either, minimum
from support.tables import check_table

RNG = np.random.default_rng(0)
PLAIN = Table("plain", RNG.random((12, 12)) < 0.3)
BY_HEAD = Table("by_head", RNG.random((2, 48, 48)) < 0.7)
NUMBERS = Table("numbers", RNG.integers(0, 4, (12, 12)))

LOOKED_UP = {
    "blocks": Mask(lambda b, h, q, kv: PLAIN[q // 4, kv // 4], {}, (PLAIN,)),
    "blocks of each head": Mask(lambda b, h, q, kv: BY_HEAD[h, q, kv], {}, (BY_HEAD,)),
    "blocks and those before": Mask(
        lambda b, h, q, kv: both(q // 8 >= kv // 4, NUMBERS[q // 4, kv // 4] > h), {}, (NUMBERS,)
    ),
    "blocks that begin elsewhere": Mask(
        lambda b, h, q, kv: either(
            PLAIN[minimum((q + 2) // 6, 11), (kv + 4) // 8], (q // 6 + kv // 8) % 5 == 0
        ),
        {},
        (PLAIN,),
    ),
}
NOT = {
    "a position by itself": Mask(
        lambda b, h, q, kv: both(q >= kv, PLAIN[q // 4, kv // 4]), {}, (PLAIN,)
    ),
    "no table of both axes": Mask(lambda b, h, q, kv: (q // 16 + kv // 16) % 3 == 0),
}


def scene_of(mask, shape):
    options = {"heads": 2, "tile": shape.tile, "q_offset": shape.q_offset}
    return make_plan(mask.program(), shape.q_len, shape.kv_len, **options).scene


@st.composite
def block_shapes(draw: st.DrawFn) -> Shape:
    """Tiles that hold whole blocks, and others; lengths that cut both."""
    size = st.sampled_from([1, 2, 4, 6, 8, 12, 16])
    q_offset = draw(st.integers(0, 8))
    q_len = draw(st.integers(1, 48 - q_offset))
    return Shape(q_len, draw(st.integers(1, 48)), (draw(size), draw(size)), q_offset)


@pytest.mark.parametrize("name", LOOKED_UP)
@given(block_shapes())
def test_the_table_is_that_of_brute_force(name, shape):
    scene = scene_of(LOOKED_UP[name], shape)
    table = block_grid.looked_up_table(scene)
    if table is not None:
        check_table(table, LOOKED_UP[name], scene)


@pytest.mark.parametrize("name", LOOKED_UP)
def test_tables_are_looked_up(name):
    scene = scene_of(LOOKED_UP[name], Shape(46, 48, (12, 8), 0))
    assert block_grid.looked_up_table(scene) is not None


@pytest.mark.parametrize("name", NOT)
def test_other_masks_are_left_to_proofs(name):
    assert block_grid.looked_up_table(scene_of(NOT[name], Shape(48, 48, (16, 16), 0))) is None
