"""A plan's table of runs as a kernel reads it: on the device, the cut last tile masked.

A plan calls a tile full when all its pairs *inside* the lengths are allowed. The kernel's full
tiles look at no bounds, so a last tile that the keys do not fill moves to the masked runs. With the
runs goes the order in which outer tiles start, the longest ones first: why, says
`codegen/programs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.table import RunTable
from flexdsl.runtime.memory import Memory


@dataclass(frozen=True, eq=False)
class DeviceTable:
    """int32 tensors on the device; see `RunTable` for their meaning.

    Attributes:
        order: [rows], for each head that the plan tells apart the numbers of its outer tiles in the
            order in which they start.
        kinds: of each run, for consumers that skip tiles (`own_tiles.py`, `part_tiles.py`); None in
            other tables.
        bits: what is remembered of the mask in its masked tiles (`mask_bits.py`).
    """

    offsets: Tensor
    full_ends: Tensor
    starts: Tensor
    stops: Tensor
    order: Tensor
    kinds: Tensor | None = field(default=None, kw_only=True)
    bits: Memory = field(default_factory=lambda: Memory(1), init=False)


@dataclass(frozen=True, eq=False)
class TableWithBits(DeviceTable):
    """A table with the mask of its masked tiles as bits.

    Attributes:
        first_bits: int32 [rows], the tile of bits of the first tile of each row; those of its
            masked tiles follow on each other.
        mask_words: int32, one tile of bits after the other.
    """

    first_bits: Tensor
    mask_words: Tensor


def table_of_kernel(plan: BlockPlan) -> RunTable:
    """The table of a plan of that kind as kernels read it.

    They look at the end of the axis that they go along in masked runs only.
    """
    assert plan.table is not None
    of_queries = plan.outer == "q"
    length, tiles = (plan.kv_len, plan.kv_tiles) if of_queries else (plan.q_len, plan.q_tiles)
    cut = length % plan.tile_shape[1 if of_queries else 0] != 0
    return mask_last_tile(plan.table, tiles) if cut else plan.table


def to_device(
    table: RunTable, outer_tiles: int, device: torch.device, kinds: np.ndarray | None = None
) -> DeviceTable:
    """The table on `device`.

    Args:
        outer_tiles: rows of a head.
        kinds: of its runs, where consumers skip tiles.
    """
    arrays = (table.offsets, table.full_ends, table.starts, table.stops)
    offsets, full_ends, starts, stops = (_upload(a, device) for a in arrays)
    order = longest_first(torch.from_numpy(_tiles_of_rows(table)), outer_tiles).to(device)
    kinds_there = None if kinds is None else _upload(kinds, device)
    return DeviceTable(offsets, full_ends, starts, stops, order, kinds=kinds_there)


def longest_first(tiles: Tensor, outer_tiles: int) -> Tensor:
    """The order in which outer tiles start, as a `DeviceTable` has it, on the device of `tiles`.

    Those whose numbers of inner tiles are within a quarter of each other keep the order in which
    they lie: neighbours go over the same keys, which should be in the GPU's cache.

    Args:
        tiles: integers [rows], how many inner tiles are live in each.
        outer_tiles: rows of a head.
    """
    # The exponent of a float and two bits below it: the same classes on every device, unlike logs.
    classes = tiles.float().view(torch.int32) >> 21
    of_heads = classes.view(-1, outer_tiles)
    order = torch.argsort(of_heads, dim=1, descending=True, stable=True)
    return order.to(torch.int32).view(-1)


def _tiles_of_rows(table: RunTable) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Live tiles of each row."""
    before = np.zeros(len(table.starts) + 1, np.int64)
    np.cumsum(table.stops - table.starts, out=before[1:])
    ends = before[table.offsets]
    return np.asarray(ends[1:] - ends[:-1])


def _upload(array: np.ndarray, device: torch.device) -> Tensor:
    array = np.ascontiguousarray(array, dtype=np.int32)
    # A kernel's pointer must be valid even where there is no run to read.
    padded = array if array.size else np.zeros(1, np.int32)
    return torch.from_numpy(padded.copy()).to(device)


def mask_last_tile(table: RunTable, tiles: int) -> RunTable:
    """The same table with tile `tiles - 1` in a masked run wherever it was in a full one."""
    moved = np.flatnonzero(table.full_runs() & (table.stops == tiles))
    if moved.size == 0:
        return table
    stops = table.stops.copy()
    stops[moved] -= 1
    rows = table.row_of_runs()[moved]
    at = table.offsets[rows + 1]
    added = np.bincount(rows, minlength=table.rows)
    offsets = table.offsets + np.concatenate([[0], np.cumsum(added)])
    shift = offsets[:-1] - table.offsets[:-1]
    return without_empty_runs(
        RunTable(
            offsets=offsets.astype(np.int32),
            full_ends=(table.full_ends + shift).astype(np.int32),
            starts=np.insert(table.starts, at, tiles - 1).astype(np.int32),
            stops=np.insert(stops, at, tiles).astype(np.int32),
        )
    )


def without_empty_runs(table: RunTable) -> RunTable:
    """The same table without runs of no tile: a kernel takes the first tile of a run unasked."""
    kept = table.starts < table.stops
    before = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)
    return RunTable(
        offsets=before[table.offsets],
        full_ends=before[table.full_ends],
        starts=table.starts[kept],
        stops=table.stops[kept],
    )
