"""Masks of periods: the table from a closed form in each pair of them is that of brute force."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl import stdlib
from flexdsl.analysis import folded, make_plan, planning
from support.masks import Mask, Shape, Table, _apply2, both, captures, either, shapes
from support.tables import check_table

ANY = Table("any", np.arange(48) * 7 % 5)


def scene_of(mask, shape):
    options = {"heads": 2, "tile": shape.tile, "q_offset": shape.q_offset}
    return make_plan(mask.program(), shape.q_len, shape.kv_len, **options).scene


@st.composite
def of_periods(draw: st.DrawFn) -> Mask:
    tables = draw(captures())
    doc, window = tables
    n, m, w = draw(st.integers(2, 20)), draw(st.integers(2, 20)), draw(st.integers(0, 6))
    a, c = draw(st.integers(-9, 30)), draw(st.integers(-9, 30))
    m = draw(st.sampled_from([n, m]))
    parts = [
        lambda b, h, q, kv: abs((q - a) % n - (kv - c) % m) < w,
        lambda b, h, q, kv: abs((q - a) % n - (kv - c) % m) <= window[h],
        lambda b, h, q, kv: (q - a) % n >= (kv - c) % m,
        lambda b, h, q, kv: (kv - c) % m < w,
        lambda b, h, q, kv: (q - a) % n // 2 == (kv - c) % m // 2,
        lambda b, h, q, kv: (kv - c) % m * doc[abs((q - a) // n - (kv - c) // m)] <= (q - a) % n,
        lambda b, h, q, kv: (q - a) // n != (kv - c) // m,
        lambda b, h, q, kv: (q - a) // n // 2 >= (kv - c) // m // 2,
        lambda b, h, q, kv: (kv - c) // m == h,
        lambda b, h, q, kv: doc[abs((q - a) // n)] == doc[abs((kv - c) // m)],
    ]
    function, *others = draw(st.lists(st.sampled_from(parts), min_size=2, max_size=3))
    for part in others:
        function = _apply2((draw(st.sampled_from([both, either])), function, part))
    return Mask(function, {}, tables)


@given(of_periods(), shapes(), st.sampled_from([1, 7, 4096]))
def test_the_table_is_that_of_brute_force(mask, shape, cells):
    """Also where few pieces are treated together."""
    scene = scene_of(mask, shape)
    with patch.object(folded, "CELLS", cells):
        table = folded.folded_table(scene)
    if table is not None:
        check_table(table, mask, scene)


FOLDED = {
    "near at all times": Mask(lambda b, h, q, kv: abs((q - 3) % 10 - (kv - 3) % 10) < 2),
    "wider when nearer": Mask(
        lambda b, h, q, kv: abs(q % 9 - kv % 9) * ANY[abs(q // 9 - kv // 9)] < 3 * h + 1,
        {},
        (ANY,),
    ),
    "periods of two lengths": Mask(lambda b, h, q, kv: q % 11 > (kv + 4) % 6),
    "places from the fifth on": Mask(
        lambda b, h, q, kv: both(kv % 8 > 4, either(q // 8 == 0, q % 8 > 6))
    ),
}
NOT = {
    "a position as it is": Mask(lambda b, h, q, kv: both(q % 9 == kv % 9, q >= kv)),
    "two phases": Mask(lambda b, h, q, kv: both(q % 9 == kv % 9, (q + 1) // 9 > kv // 9)),
    "one axis": Mask(lambda b, h, q, kv: kv % 9 < 4),
    "two intervals": Mask(lambda b, h, q, kv: abs(q % 9 - kv % 9) > 2),
    "a remainder inside": Mask(lambda b, h, q, kv: q % 12 % 5 >= kv % 12),
    "many kinds": Mask(lambda b, h, q, kv: abs(q % 4 - kv % 4) < (q // 4) * 16 + kv // 4),
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize(
    "shape", [Shape(48, 48, (4, 4), 0), Shape(31, 40, (16, 5), 7), Shape(5, 48, (3, 48), 40)]
)
def test_masks_of_periods_are_solved(name, shape):
    scene = scene_of(FOLDED[name], shape)
    table = folded.folded_table(scene)
    assert table is not None
    check_table(table, FOLDED[name], scene)


@pytest.mark.parametrize("name", NOT)
def test_other_masks_are_left_alone(name):
    assert folded.folded_table(scene_of(NOT[name], Shape(48, 48, (4, 4), 0))) is None


def test_short_periods_are_left_alone(monkeypatch):
    scene = scene_of(FOLDED["near at all times"], Shape(48, 48, (4, 4), 0))
    monkeypatch.setattr(folded, "MOST_CELLS", 60)
    assert folded.folded_table(scene) is None


@pytest.mark.parametrize(
    "mask", [stdlib.svg_temporal(20, 8, 61, 2.0), stdlib.radial_token(8, 61, first_frame=True)]
)
def test_no_pair_of_a_video_is_evaluated_for_its_own_part(mask, monkeypatch):
    looked_at = []
    monkeypatch.setattr(planning, "map_tiles", looked_at.append)
    plan = make_plan(mask.program, 488, 488, tile=(16, 16))
    rows, columns = np.arange(488), np.arange(488)
    assert plan.kind == "table" and not looked_at
    assert plan.pairs == np.count_nonzero(plan.allowed(0, 0, rows, columns))
