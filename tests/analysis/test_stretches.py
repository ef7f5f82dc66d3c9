"""Masks that repeat between clamps of q: their table from stretches of rows is that of all rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl import stdlib
from flexdsl.analysis import make_plan, stretches
from flexdsl.analysis.prove import Prover
from support.masks import Mask, both, either, masks, maximum, minimum, no
from support.tables import check_table


def clamped(x, y, length):
    return abs(minimum(maximum(x, 1), length - 2) - y) <= 1


STRETCHED = {
    "a neighbourhood": Mask(
        lambda b, h, q, kv: both(clamped(q // 4, kv // 4, 16), clamped(q % 4, kv % 4, 4))
    ),
    "a first row that sees all": Mask(lambda b, h, q, kv: either(q == 0, (q - kv) % 3 == 1)),
    "text after the video": Mask(
        lambda b, h, q, kv: either(q >= 57, both(q // 4 - kv // 4 < 3, (q + kv) % 4 == h))
    ),
    "rows between": Mask(
        lambda b, h, q, kv: either(both(q > 9, no(q > 14)), q % 6 // 2 == kv % 6 // 2)
    ),
}
NOT = {
    "a window": Mask(lambda b, h, q, kv: q - kv < 5),
    "many changes": Mask(
        lambda b, h, q, kv: either(
            either(either(q == 5, q == 15), either(q == 25, q == 35)), q % 4 == kv % 4
        )
    ),
    "another product in each row": Mask(lambda b, h, q, kv: either(q < 4, q * kv % 7 == 1)),
}


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    monkeypatch.setattr(stretches, "FEWEST_TILES", 0)


def scene_of(mask, q_len=64, kv_len=64, tile=(4, 4), q_offset=0):
    options = {"heads": 2, "tile": tile, "q_offset": q_offset}
    return make_plan(mask.program(), q_len, kv_len, **options).scene


@pytest.mark.parametrize("name", STRETCHED)
@pytest.mark.parametrize(
    ("q_len", "kv_len", "tile", "q_offset"),
    [
        (64, 64, (4, 4), 0),
        (62, 40, (4, 2), 0),
        (60, 64, (2, 8), 3),
        (64, 64, (1, 1), 0),
        (50, 66, (3, 3), 13),
    ],
)
def test_the_table_is_that_of_brute_force(name, q_len, kv_len, tile, q_offset):
    mask = STRETCHED[name]
    scene = scene_of(mask, q_len, kv_len, tile, q_offset)
    table = stretches.stretched_table(scene)
    if (tile, q_offset) == ((4, 4), 0):
        assert table is not None
    if table is not None:
        check_table(table, mask, scene)


@pytest.mark.parametrize("name", NOT)
def test_other_masks_are_left_alone(name):
    assert stretches.stretched_table(scene_of(NOT[name])) is None


@given(masks(), st.integers(0, 8))
def test_drawn_masks_are_right_or_left_alone(mask, q_offset):
    scene = scene_of(mask, 40, 40, (2, 2), q_offset)
    table = stretches.stretched_table(scene)
    if table is not None:
        check_table(table, mask, scene)


@given(masks(), st.integers(0, 20), st.integers(1, 20))
def test_what_is_decided_in_some_rows_is_the_same_there(mask, first, rows):
    scene = scene_of(mask, rows, 40, (4, 4), first)
    simple = stretches.simplified(scene.expr, Prover("q", scene.grid, scene.bindings))
    axes = np.ix_(range(1), range(2), range(rows), range(40))
    expected = np.broadcast_to(scene.evaluate(*axes), (1, 2, rows, 40))
    np.testing.assert_array_equal(replace(scene, expr=simple).evaluate(*axes), expected)


def test_a_neighbourhood_is_looked_at_in_few_rows(monkeypatch):
    monkeypatch.undo()
    looked_at = []
    plain = stretches.map_tiles
    monkeypatch.setattr(
        stretches, "map_tiles", lambda scene: looked_at.append(scene.grid.q_len) or plain(scene)
    )
    mask = stdlib.neighborhood((512, 128), (5, 7))
    plan = make_plan(mask.program, 512 * 128, 512 * 128)
    assert plan.kind == "table" and looked_at == [2 * 128, 2 * 128]
