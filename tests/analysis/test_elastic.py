"""Windows of each head are closed forms, also where a head has none: against the mask on ints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl import stdlib
from flexdsl.analysis import make_plan
from support.masks import Mask, Table, both, states_of


@pytest.mark.parametrize("tile", [(8, 8), (16, 8), (8, 32)])
def test_elastic_windows_have_a_closed_form_wherever_their_sinks_end(tile: tuple[int, int]) -> None:
    """Sinks and window fill a tile together in the first rows only: there the window has both."""
    for sinks, local in (
        ([1, 1, 2], [1, 3, 5]),
        ([1, 3, 0], [2, 30, 1]),
        ([0, 5, 1], [1, 1, 2]),
        ([3, 2, 0], [0, 4, 0]),  # heads without a window
        ([0, 1, 7], [0, 0, -2]),
    ):
        mask = stdlib.elastic_window(np.array(sinks), np.array(local), 4)
        plan = make_plan(mask.program, 96, 90, heads=3, tile=tile)
        assert plan.kind == "closed-form"
        rows = [[[mask(0, h, q, kv) for kv in range(90)] for q in range(96)] for h in range(3)]
        dense = np.array(rows)[None]
        np.testing.assert_array_equal(plan.to_dense(), states_of(dense, tile))
        np.testing.assert_array_equal(plan.transposed().to_dense(), states_of(dense, tile))
        assert plan.pairs == dense.sum()


@given(
    st.lists(st.integers(-3, 12), min_size=3, max_size=3),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from([(8, 8), (16, 4), (3, 7)]),
)
def test_a_window_that_some_heads_do_not_have_is_a_closed_form(
    blocks: list[int], block: int, looks_ahead: bool, tile: tuple[int, int]
) -> None:
    """A head without one has no key in any row: rows that touch in the others are enough."""
    widths = Table("blocks", np.array(blocks))

    def window(b: Any, h: Any, q: Any, kv: Any) -> Any:
        first, last = (kv, q) if looks_ahead else (q, kv)
        return both(first // block - last // block < widths[h], first >= last)

    mask = Mask(window, {}, (widths,))
    plan = make_plan(mask.program(), 50, 45, heads=3, tile=tile)
    dense = mask.dense(1, 3, 50, 45, 0)
    np.testing.assert_array_equal(plan.to_dense(), states_of(dense, tile))
    np.testing.assert_array_equal(plan.transposed().to_dense(), plan.to_dense())
    assert plan.pairs == dense.sum()
    assert plan.may_have_empty_rows == bool((~dense.any(axis=3)).any())
    assert plan.kind == plan.transposed().kind == "closed-form"
