"""Masks that repeat along the diagonal: their table from one step of rows is the table of all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.analysis import make_plan, planning, repeated
from support.masks import Mask, Table, both, either, masks, states_of
from support.tables import states_of_table

SHIFT = Table("shift", np.array([0, 3, 5]))

REPEATED = {
    "strided blocks": Mask(
        lambda b, h, q, kv: both(q >= kv, either(q // 2 - kv // 2 < 2, (kv // 2 + h + 3) % 4 == 0))
    ),
    "summaries": Mask(lambda b, h, q, kv: both(q >= kv, either(kv % 8 > 5, q // 8 == kv // 8))),
    "rows of a grid": Mask(
        lambda b, h, q, kv: both(abs(q // 8 - kv // 8) <= 1, abs(q % 8 - kv % 8) <= 2)
    ),
    "a shift of each head": Mask(
        lambda b, h, q, kv: (q + 2 * kv + SHIFT[h]) % 6 == 1, {}, (SHIFT,)
    ),
    "sums of periods": Mask(lambda b, h, q, kv: either(q % 3 == kv % 3, (q // 3 + kv) % 2 == 0)),
}
NOT = {
    "a first row": Mask(lambda b, h, q, kv: either(q == 0, q % 3 == kv % 4)),
    "a load": Mask(lambda b, h, q, kv: SHIFT[q % 3] == SHIFT[kv % 3], {}, (SHIFT,)),
    "growing": Mask(lambda b, h, q, kv: kv % 4 <= q // 4),
}


def scene_of(mask, q_len, kv_len, tile, q_offset=0):
    options = {"heads": 3, "tile": tile, "q_offset": q_offset}
    return make_plan(mask.program(), q_len, kv_len, **options).scene


@pytest.mark.parametrize("name", REPEATED)
@pytest.mark.parametrize("tile", [(4, 4), (2, 8), (8, 4), (1, 3), (16, 12)])
@pytest.mark.parametrize(("rows", "keys", "q_offset"), [(12, 12, 0), (24, 9, 5), (13, 30, 40)])
def test_the_table_is_that_of_brute_force(name, tile, rows, keys, q_offset):
    mask, lengths = REPEATED[name], (rows * tile[0], keys * tile[1])
    scene = scene_of(mask, *lengths, tile, q_offset)
    found = repeated.repeated_table(scene)
    step = repeated._step(scene)
    assert (found is None) == (step is None)
    if step is None:
        assert lengths[0] < 4 * np.lcm.reduce([24, *tile])
        return
    dense = states_of(mask.dense(1, 3, *lengths, q_offset), tile)
    rows_of_heads = dense.shape[1] if "h" in scene.expr.variables else 1
    expected = dense[0, :rows_of_heads].reshape(-1, dense.shape[3])
    np.testing.assert_array_equal(states_of_table(found, expected.shape), expected)


@pytest.mark.parametrize("name", NOT)
def test_what_does_not_repeat_is_left_alone(name):
    assert repeated.repeated_table(scene_of(NOT[name], 192, 192, (4, 4))) is None


def test_lengths_that_cut_a_tile_are_left_alone():
    for lengths in ((190, 192), (192, 190)):
        scene = scene_of(REPEATED["summaries"], *lengths, (4, 4))
        assert repeated.repeated_table(scene) is None


@given(masks(), st.sampled_from([(1, 1), (2, 2), (2, 1)]))
def test_nothing_is_taken_to_repeat_that_does_not(mask, tile):
    scene = make_plan(mask.program(), 40, 40, heads=3, batch=2, tile=tile).scene
    step = repeated._step(scene)
    if step is not None:
        dense = mask.dense(2, 3, 40, 40)
        np.testing.assert_array_equal(dense[..., step:, step:], dense[..., :-step, :-step])


def test_blocks_of_each_head_are_planned_from_one_step(monkeypatch):
    looked_at = []
    plain = planning.map_tiles
    monkeypatch.setattr(
        planning, "map_tiles", lambda scene: looked_at.append(scene) or plain(scene)
    )
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and (q // 64 - kv // 64 + h) % 4 == 0)
    plan = make_plan(mask.program, 4096, 4096, heads=4)
    assert plan.kind == "table" and not looked_at
    other = make_plan(mask.program, 4096 - 64, 4096, heads=4)
    assert len(looked_at) == 1
    np.testing.assert_array_equal(plan.to_dense()[:, :, :-1], other.to_dense()[:, :, :-1])
