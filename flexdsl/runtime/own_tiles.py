"""Which consumers of a Hopper GPU's forward kernel the tiles of a table are for.

A query tile has 64 rows for each consumer. Of a masked tile, some may have no pair: consumers skip
those tiles (`codegen/hopper/forward_consumer.py`). Which ones is what the plan of tiles of 64 rows
says. Here that is one of the host's, and of masks without captured tensors alone: what those
contain may change while the plan stays right. Where the device makes the table, `part_tiles.py`
does this. Masked runs are split where their consumers change, and put in an order: first those of
all consumers, then one of each in turn, so that all of them have work at a time. A neighbourhood of
13 x 13 on 96 x 96 in tiles of 8 x 8 took 279 microseconds without skipping, 243 with each
consumer's tiles together, and 238 in turn (H200, torch 2.11.0+cu130, triton 3.6.0, 2026-11-26).
Which calls take this, says `call.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.grid import numbered
from flexdsl.analysis.table import RunTable
from flexdsl.codegen.hopper.module import GROUP_ROWS
from flexdsl.codegen.hopper.works import FULL, MASKED, kind_for
from flexdsl.runtime.run_table import table_of_kernel

Array = NDArray[Any]

# Of the tiles of 64 rows that are masked or empty, the part from which on they are skipped: a
# consumer has its first tile's scores without other work beside them once more in every query tile.
_LEAST = 0.1


@dataclass(frozen=True, eq=False)
class OwnTiles:
    """The table of a plan for consumers that skip tiles.

    Attributes:
        table: the runs; masked ones of a row come in the order of their consumers.
        kinds: int32 [runs], what notes say of the tiles of each.
        tiles: masked tiles, counted once for each consumer.
        skipped: how many of those have no pair.
    """

    table: RunTable
    kinds: Array
    tiles: int
    skipped: int

    @property
    def pays(self) -> bool:
        """Are enough tiles skipped?"""
        return self.skipped > 0 and self.skipped >= _LEAST * self.tiles


_FOUND: WeakKeyDictionary[BlockPlan, OwnTiles] = WeakKeyDictionary()


def own_tiles(plan: BlockPlan) -> OwnTiles | None:
    """The tiles of each consumer, found once for a plan; None where they are not known.

    Args:
        plan: by query tiles of a multiple of 64 rows.
    """
    if plan.kind != "table" or plan.scene.expr.loads:
        return None
    if plan not in _FOUND:
        _FOUND[plan] = _find(plan)
    return _FOUND[plan]


def _find(plan: BlockPlan) -> OwnTiles:
    table, consumers = table_of_kernel(plan), plan.tile_shape[0] // GROUP_ROWS
    everyone = (1 << consumers) - 1
    full, row_of_runs = table.full_runs(), table.row_of_runs()
    run, within = numbered((table.stops - table.starts)[~full])
    row, tile = row_of_runs[~full][run], table.starts[~full][run] + within
    groups = _groups(plan, row, tile, consumers)
    order = _in_turn(row, tile, groups, everyone)
    row, tile, groups = row[order], tile[order], groups[order]
    same = (np.diff(row) == 0) & (np.diff(groups) == 0) & (np.diff(tile) == 1)
    opens = np.concatenate([[True], ~same])[: len(row)]
    closes = np.concatenate([~same, [True]])[: len(row)]
    rows = np.concatenate([row_of_runs[full], row[opens]])
    of_masked = np.array([kind_for(MASKED, g) for g in range(everyone + 1)])
    of_full = np.full(full.sum(), kind_for(FULL, everyone))
    kinds = np.concatenate([of_full, of_masked[groups[opens]]])
    in_rows = np.argsort(rows, kind="stable")  # so that the full ones of a row stay first
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=table.rows))])
    made = RunTable(
        offsets.astype(np.int32),
        (offsets[:-1] + table.full_ends - table.offsets[:-1]).astype(np.int32),
        np.concatenate([table.starts[full], tile[opens]])[in_rows].astype(np.int32),
        np.concatenate([table.stops[full], tile[closes] + 1])[in_rows].astype(np.int32),
    )
    skipped = sum(int((groups >> g & 1 == 0).sum()) for g in range(consumers))
    return OwnTiles(made, kinds[in_rows].astype(np.int32), consumers * len(row), skipped)


def _in_turn(row: Array, tile: Array, groups: Array, everyone: int) -> Array:
    """The order of masked tiles, row by row: those of all consumers, then of each group in turn."""
    key = row.astype(np.int64) * (everyone + 1) + groups
    of_group = np.lexsort((tile, key))
    sorted_keys = key[of_group]
    nth = np.empty(len(key), np.int64)
    nth[of_group] = np.arange(len(key)) - np.searchsorted(sorted_keys, sorted_keys)
    shared = groups == everyone
    return np.lexsort((groups, nth, ~shared, row))


def _groups(plan: BlockPlan, row: Array, tile: Array, consumers: int) -> Array:
    """Bit g of each tile: the rows of consumer g have a pair in it."""
    parts = plan.with_tile((GROUP_ROWS, plan.tile_shape[1])).tabulated
    assert parts.table is not None
    table, width = parts.table, plan.kv_tiles
    first = table.row_of_runs().astype(np.int64) * width
    ascending = np.argsort(first + table.starts)
    starts, stops = ((first + ends)[ascending] for ends in (table.starts, table.stops))
    head, q_tile = row // plan.q_tiles, row % plan.q_tiles
    groups = np.zeros(len(row), np.int64)
    for g in range(consumers):
        part = q_tile * consumers + g
        at = (head.astype(np.int64) * parts.q_tiles + part) * width + tile
        run = np.searchsorted(starts, at, "right") - 1
        live = (run >= 0) & (part < parts.q_tiles)
        live[live] = at[live] < stops[run[live]]
        groups |= live.astype(np.int64) << g
    return groups
