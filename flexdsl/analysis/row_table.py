"""The table of a mask of few intervals in each row, from the rows that tell of all others.

Answers to prompts that are stored once, and other documents that look at a second one, have closed
forms that are right but not exact where documents begin in the middle of a tile: their rows leave
whole tiles between them, or two intervals fill a tile together. So the tiles of each row are put
together: live is what one of them has, and full is what all of them fill. No pair is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.closed_form import Declined
from flexdsl.analysis.closed_runs import Ends, joined, listed, united
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.strided import derive_form
from flexdsl.analysis.table import Runs, RunTable, merged, of_all_groups, table_of_runs

Array = NDArray[Any]
ROWS = 1 << 10  # looked at together
MOST_ROWS = 1 << 21  # positions of q, of all batches and heads that differ: then proofs are faster


def table_by_rows(scene: Scene) -> RunTable | None:
    """The runs of kv tiles of every q tile.

    None where no row has its bounds for itself, or too many rows have.
    """
    grid, groups = scene.grid, np.unique(scene.like_groups)
    if not scene.expr.loads or grid.is_empty or len(groups) * grid.q_len > MOST_ROWS:
        return None
    try:
        form = derive_form(scene.expr, "kv", Prover("q", grid, scene.bindings))
    except Declined:
        return None
    if not form.by_rows or any(interval.sieve is not None for interval in form.intervals):
        return None
    ends = Ends(form, grid, scene.bindings)
    tiles = (groups[:, None] * grid.q_tiles + np.arange(grid.q_tiles)).reshape(-1)
    return of_all_groups(table_of_runs(ends.rows, _runs(ends, tiles)), scene)


def _runs(ends: Ends, tiles: Array) -> Iterator[Runs]:
    """The runs of these q tiles, some at a time."""
    for rows in ends.rows_of(ends.form.intervals, tiles, ROWS):
        low, high = joined(rows.low, rows.high)
        start, stop = low // ends.inner_tile, -(-high // ends.inner_tile)
        live, full = (
            [(rows.of[row], first, last) for row, first, last in listed(*ranges)]
            for ranges in ((start, np.where(low < high, stop, start)), ends.contained(low, high))
        )
        found = united(live, full, ends.grid.kv_tiles, np.bincount(rows.of))
        yield merged(tiles[rows.tiles][found[0]], *found[1:])
