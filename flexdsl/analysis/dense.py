"""A whole plan as arrays, tile by tile or pair by pair: for tests, pictures and other libraries.

Only who asks for it pays for arrays of this size. Batches and heads are those that the mask tells
apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.scene import Scene
from flexdsl.analysis.table import RunTable

Array = NDArray[Any]


def dense_states(table: RunTable, scene: Scene) -> Array:
    """int8 [batch, heads, q_tiles, kv_tiles] of 0 empty, 1 partial, 2 full.

    Args:
        table: runs of kv tiles.
    """
    grid = scene.grid
    states = np.zeros((grid.batch * grid.heads * grid.q_tiles, grid.kv_tiles), np.int8)
    full = table.full_runs()
    for k, row in enumerate(table.row_of_runs()):
        states[row, table.starts[k] : table.stops[k]] = 1 + full[k]
    return states.reshape(grid.batch, grid.heads, grid.q_tiles, grid.kv_tiles)


def dense_tokens(scene: Scene) -> Array:
    """bool [batch, heads, q_len, kv_len]: the mask itself."""
    grid = scene.grid
    axes = (grid.batch, grid.heads, grid.q_len, grid.kv_len)
    b, h, rows, columns = np.ix_(*(np.arange(n) for n in axes))
    return scene.evaluate(b, h, rows, columns)
