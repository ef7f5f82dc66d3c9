"""Ends that every row loads, beside one of known slope: exact whatever is loaded, or a table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl.analysis import closed_runs, make_plan
from flexdsl.analysis.closed_form import Interval
from support.masks import Mask, Table, both, states_of

LENGTH = 60
MASKS = {
    "from a start": lambda end: lambda b, h, q, kv: both(kv >= end[q], kv <= q),
    "to an end": lambda end: lambda b, h, q, kv: both(kv > q - 3, kv < end[q]),
    "steep": lambda end: lambda b, h, q, kv: both(kv >= end[q], kv < 3 * q - 20),
    "flat": lambda end: lambda b, h, q, kv: both(kv >= end[q], kv < 41),
    "both loaded": lambda end: lambda b, h, q, kv: both(kv >= end[q], kv < end[q] + 9),
}


@pytest.mark.parametrize("name", MASKS)
@given(
    ends=st.lists(st.integers(-5, LENGTH + 5), min_size=LENGTH, max_size=LENGTH),
    tile=st.tuples(st.integers(1, 17), st.integers(1, 17)),
)
def test_whatever_the_ends_are_the_plan_is_brute_force(name, ends, tile):
    mask = Mask(MASKS[name](table := Table("end", np.array(ends))), {}, (table,))
    plan = make_plan(mask.program(), LENGTH, LENGTH, tile=tile)
    np.testing.assert_array_equal(
        plan.to_dense(), states_of(mask.dense(1, 1, LENGTH, LENGTH, 0), tile)
    )


@pytest.mark.parametrize(("name", "slope"), [("from a start", 1), ("to an end", 1), ("steep", 3)])
def test_rows_are_looked_at_only_where_a_tile_fits_between_them(name, slope, monkeypatch):
    looked_at: list[Interval] = []
    rows_of = closed_runs.Ends.rows_of

    def spy(ends, interval, tiles):
        looked_at.append(interval)
        return rows_of(ends, interval, tiles)

    monkeypatch.setattr(closed_runs.Ends, "rows_of", spy)
    mask = Mask(MASKS[name](table := Table("end", np.arange(LENGTH) // 7 * 7)), {}, (table,))
    for height, width in ((8, 8), (8, 7 * slope), (8, 7 * slope - 1)):
        looked_at.clear()
        make_plan(mask.program(), LENGTH, LENGTH, tile=(height, width))
        assert bool(looked_at) == (width < 7 * slope)
