"""Masks of parts joined by `or`: the table made of theirs is that of the whole mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl import stdlib
from flexdsl.analysis import make_plan, planning, union
from support.masks import Mask, Shape, Table, _apply2, both, captures, either, shapes
from support.tables import check_table

RNG = np.random.default_rng(0)
GLOBAL = Table("globals", RNG.random(48) < 0.1)
RANDOM = Table("random", RNG.integers(0, 12, (2, 12)))
IDS = Table("ids", RNG.integers(0, 6, 48))
SOME = Table("some", RNG.random((2, 48)) < 0.5)

UNITED = {
    "global tokens": Mask(
        lambda b, h, q, kv: either(either(GLOBAL[q], GLOBAL[kv]), abs(q - kv) <= 3), {}, (GLOBAL,)
    ),
    "random blocks": Mask(
        lambda b, h, q, kv: either(
            either(q // 4 == 0, abs(q // 4 - kv // 4) <= 1), RANDOM[h, q // 4] == kv // 4
        ),
        {},
        (RANDOM,),
    ),
    "one frame of each patch": Mask(
        lambda b, h, q, kv: either(either(q == 0, kv == 0), (q - kv) % 3 == 0)
    ),
    "columns of each head alone": Mask(
        lambda b, h, q, kv: either(SOME[h, kv], both(q == 3, kv > 4)), {}, (SOME,)
    ),
    "equal ids in any order": Mask(
        lambda b, h, q, kv: either(IDS[q] == IDS[kv], q // 5 == kv // 7), {}, (IDS,)
    ),
    "rows alone": Mask(lambda b, h, q, kv: either(q < 7, q == 20 + h)),
}
NOT = {
    "and": Mask(lambda b, h, q, kv: both(q < 7, kv < 3)),
    "bands": Mask(lambda b, h, q, kv: either(q - kv == 3, q - kv == 9)),
}


def scene_of(mask, shape):
    options = {"heads": 2, "tile": shape.tile, "q_offset": shape.q_offset}
    return make_plan(mask.program(), shape.q_len, shape.kv_len, **options).scene


def table_of(scene):
    return union.united_table(scene, planning._table_of_part)


@pytest.mark.parametrize("name", UNITED)
@given(shapes())
def test_the_table_is_that_of_brute_force(name, shape):
    scene = scene_of(UNITED[name], shape)
    table = table_of(scene)
    assert table is not None
    check_table(table, UNITED[name], scene)


@pytest.mark.parametrize("name", NOT)
def test_other_masks_are_left_alone(name):
    assert table_of(scene_of(NOT[name], Shape(20, 20, (4, 4), 0))) is None


@st.composite
def unions(draw: st.DrawFn) -> Mask:
    """Two to four parts of any kind, of one axis or of two."""
    tables = draw(captures())
    (doc, window), n, m = tables, draw(st.integers(0, 40)), draw(st.integers(1, 9))
    parts = [
        lambda b, h, q, kv: q == n,
        lambda b, h, q, kv: kv < m,
        lambda b, h, q, kv: doc[q] == 2,
        lambda b, h, q, kv: kv // m % 3 == h,
        lambda b, h, q, kv: doc[kv] < window[h] - 8,
        lambda b, h, q, kv: doc[q] == doc[kv],
        lambda b, h, q, kv: doc[q] * m + h == kv // 3,
        lambda b, h, q, kv: abs(q - kv) < m,
        lambda b, h, q, kv: both(q >= kv, (q - kv) % m == 0),
        lambda b, h, q, kv: doc[kv] < doc[q],
        lambda b, h, q, kv: h == 1,
    ]
    chosen = draw(st.lists(st.sampled_from(parts), min_size=2, max_size=4))
    function = chosen[0]
    for part in chosen[1:]:
        function = _apply2((either, function, part))
    return Mask(function, {}, tables)


@given(unions(), shapes())
def test_drawn_unions_are_right_or_left_alone(mask, shape):
    scene = scene_of(mask, shape)
    table = table_of(scene)
    if table is not None:
        check_table(table, mask, scene)


def test_random_blocks_are_searched_and_not_subdivided(monkeypatch):
    looked_at = []
    plain = planning.map_tiles
    monkeypatch.setattr(
        planning, "map_tiles", lambda scene: looked_at.append(scene.expr) or plain(scene)
    )
    drawn = np.random.default_rng(0).integers(0, 64, (2, 64, 3))
    plan = make_plan(stdlib.bigbird(drawn, 64).program, 4096, 4096, heads=2)
    assert plan.kind == "table" and not looked_at
