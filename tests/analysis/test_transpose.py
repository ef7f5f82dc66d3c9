"""Tables along the other axis, against states of tiles turned around, however few are looked at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexdsl.analysis import transpose as module
from flexdsl.analysis.table import RunTable, make_table
from flexdsl.analysis.transpose import transpose


def table_of(states: NDArray[np.int8]) -> RunTable:
    """The table of states [groups, outer, inner] of 0 empty, 1 partial, 2 full, tile by tile."""
    rows = states.reshape(states.shape[0] * states.shape[1], states.shape[2])
    row, tile = np.nonzero(rows)
    return make_table(len(rows), row, tile, tile + 1, rows[row, tile] == 2)


def states_of(table: RunTable, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """The states of a table; no tile may be in two runs."""
    states = np.zeros((table.rows, shape[-1]), np.int8)
    for row in range(table.rows):
        for start, stop, full in table.runs(row):
            assert start < stop and not states[row, start:stop].any()
            states[row, start:stop] = 1 + full
    return states.reshape(shape)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([(0, 0, 2), (0, 1, 2), (0, 0, 0, 1), (2,), (0,), (0, 2, 2, 2)]),
    st.integers(1, 40),
)
def test_any_table(shape, seed, kinds, most):
    states = np.random.default_rng(seed).choice(np.array(kinds, np.int8), shape)
    table = table_of(states)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RUNS", most)
        turned = transpose(table, *shape)
    expected = states.transpose(0, 2, 1)
    np.testing.assert_array_equal(states_of(turned, expected.shape), expected)
    for name in ("offsets", "full_ends", "starts", "stops"):
        found, wanted = getattr(turned, name), getattr(table_of(expected), name)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 0, 3)])
def test_tables_of_no_tile(shape):
    assert transpose(table_of(np.zeros(shape, np.int8)), *shape).rows == shape[0] * shape[2]
