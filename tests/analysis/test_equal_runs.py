"""Masks of equalities and bands: the table from runs of equal values is that of brute force."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl import stdlib
from flexdsl.analysis import equal_runs, make_plan, near_keys, planning
from flexdsl.analysis.bands import Band
from support.masks import LONGEST, Mask, Shape, Table, _apply2, both, captures, either, shapes
from support.tables import check_table


def scene_of(mask, shape):
    options = {"heads": 2, "tile": shape.tile, "q_offset": shape.q_offset}
    return make_plan(mask.program(), shape.q_len, shape.kv_len, **options).scene


@st.composite
def equalities(draw: st.DrawFn) -> Mask:
    tables = draw(captures())
    (doc, window), n, m = tables, draw(st.integers(1, 9)), draw(st.integers(1, 9))
    parts = [
        lambda b, h, q, kv: q // n == kv // n,
        lambda b, h, q, kv: kv % m // 2 == q // n,
        lambda b, h, q, kv: doc[q] == doc[kv],
        lambda b, h, q, kv: doc[q] * m + window[h] == kv,
        lambda b, h, q, kv: (q % n < 3) == (kv < 4 * m),
        lambda b, h, q, kv: (q - 20) * 2**57 == (kv - 20) * 2**57,
        lambda b, h, q, kv: -q == kv - LONGEST,
    ]
    bands = [
        lambda b, h, q, kv: q >= kv,
        lambda b, h, q, kv: q - kv < n,
        lambda b, h, q, kv: kv - m <= q + n,
        lambda b, h, q, kv: n > kv - q,
    ]
    chosen = draw(st.lists(st.sampled_from(parts), min_size=1, max_size=3))
    chosen += draw(st.lists(st.sampled_from(bands), max_size=2))
    function = chosen[0]
    for part in chosen[1:]:
        function = _apply2((both, function, part))
    return Mask(function, {}, tables)


@given(equalities(), shapes(), st.sampled_from([1, 5, 4096]))
def test_the_table_is_that_of_brute_force(mask, shape, band):
    """Also where few pairs of runs are treated together."""
    scene = scene_of(mask, shape)
    with patch.object(equal_runs, "BAND", band):
        table = equal_runs.joined_table(scene)
    if table is not None:
        check_table(table, mask, scene)


@given(equalities(), shapes(), st.sampled_from([4, 30]))
def test_parts_of_rows_beside_the_keys_near_to_them_have_the_same_table(mask, shape, queries):
    scene = scene_of(mask, shape)
    with patch.multiple(near_keys, POSITIONS=queries, AGAIN=100):
        table = equal_runs.joined_table(scene)
    if table is not None:
        check_table(table, mask, scene)


def test_parts_of_an_image_look_at_few_keys(monkeypatch):
    """A part of the rows is looked at by itself, with the rows of windows that reach out of it."""
    found = []
    tiles = near_keys.NearKeys.tiles
    monkeypatch.setattr(
        near_keys.NearKeys, "tiles", lambda *args: found.append(tiles(*args)) or found[-1]
    )
    monkeypatch.setattr(near_keys, "POSITIONS", 28 * 42 // 4)
    for mask in (stdlib.window_2d((28, 42), 7), stdlib.shifted_window((28, 42), 7)):
        scene = make_plan(mask.program, 28 * 42, 28 * 42, tile=(14, 14)).scene
        found.clear()
        table = equal_runs.joined_table(scene)
        assert table is not None and len(found) == 4
        looked_at = sum(stop - start for runs in found for start, stop in runs)
        assert scene.grid.kv_tiles <= looked_at < 2.5 * scene.grid.kv_tiles
        check_table(table, Mask(mask), scene)


NOT = {
    "a comparison of values": Mask(lambda b, h, q, kv: both(q // 4 == kv // 4, q % 3 >= kv % 3)),
    "a band alone": Mask(lambda b, h, q, kv: both(q >= kv, q - kv < 9)),
    "one or the other": Mask(lambda b, h, q, kv: either(q % 4 == kv % 4, q // 3 == kv)),
    "both axes on one side": Mask(lambda b, h, q, kv: (q + kv) % 4 == 1),
    "few values": Mask(lambda b, h, q, kv: q % 2 == kv % 2),
}


@pytest.mark.parametrize("name", NOT)
def test_other_masks_are_left_alone(name):
    assert equal_runs.joined_table(scene_of(NOT[name], Shape(400, 400, (4, 4), 0))) is None


@given(
    st.integers(-30, 30),
    st.integers(1, 9),
    st.integers(-30, 30),
    st.integers(1, 9),
    st.integers(-40, 40),
    st.integers(-40, 40),
)
def test_pairs_of_a_rectangle_in_a_band(row, height, key, width, least, most):
    found = Band(least, most).pairs(*(np.array([x]) for x in (row, height, key, width)))
    difference = (row + np.arange(height))[:, None] - key - np.arange(width)
    assert found == np.count_nonzero((least <= difference) & (difference < most))


def test_windows_that_are_shifted_are_joined_and_not_subdivided(monkeypatch):
    looked_at = []
    plain = planning.map_tiles
    monkeypatch.setattr(
        planning, "map_tiles", lambda scene: looked_at.append(scene.expr) or plain(scene)
    )
    mask = stdlib.shifted_window((28, 42), 7)
    plan = make_plan(mask.program, 28 * 42, 28 * 42, tile=(32, 32))
    assert plan.kind == "table" and not looked_at
    rows, columns = (np.arange(28 * 42) for _ in range(2))
    assert plan.pairs == np.count_nonzero(plan.allowed(0, 0, rows, columns))


def test_values_of_blocks_are_looked_at_once_a_block(monkeypatch):
    looked_at = []
    plain = equal_runs.values_of

    def counted(*args):
        values = plain(*args)
        looked_at.append(len(values))
        return values

    monkeypatch.setattr(equal_runs, "values_of", counted)
    names = Table("names", np.arange(64) * 5 % 7)
    mask = Mask(lambda b, h, q, kv: names[q // 8] == names[kv // 8], {}, (names,))
    for offset, looks in ((0, 64), (8, 63 + 64), (4, 127 + 64), (3, 509 + 64)):
        looked_at.clear()
        scene = scene_of(mask, Shape(512 - offset, 512, (16, 16), offset))
        table = equal_runs.joined_table(scene)
        assert table is not None and sum(looked_at) == looks
        check_table(table, mask, scene)
