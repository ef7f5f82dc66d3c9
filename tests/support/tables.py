"""Tables of runs against brute force."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from flexdsl.analysis.scene import Scene
from flexdsl.analysis.table import RunTable
from support.masks import Mask, states_of


def check_table(table: RunTable, mask: Mask, scene: Scene) -> None:
    """Every tile of the table against all of its pairs; runs ascend, apart and maximal."""
    grid = scene.grid
    dense = mask.dense(grid.batch, grid.heads, grid.q_len, grid.kv_len, grid.q_offset)
    expected = states_of(dense, grid.tile).reshape(-1, grid.kv_tiles)
    np.testing.assert_array_equal(states_of_table(table, expected.shape), expected)


def states_of_table(table: RunTable, shape: tuple[int, ...]) -> Any:
    """0 empty, 1 partial, 2 full, of each tile of each row; the form of the table is checked."""
    states = np.zeros(shape, np.int8)
    assert table.rows == len(states)
    assert {a.dtype for a in (table.offsets, table.full_ends, table.starts)} == {np.dtype(np.int32)}
    for row in range(table.rows):
        runs = table.runs(row)
        assert all(a[1] < b[0] or a[2] != b[2] for a, b in pairwise(runs))
        for start, stop, full in runs:
            assert 0 <= start < stop and not states[row, start:stop].any()
            states[row, start:stop] = 1 + full
    return states
