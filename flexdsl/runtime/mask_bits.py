"""Bits of the mask: each pair of a plan's masked tiles evaluated once, where that pays.

A mask of many instructions, evaluated for every head in every call, takes longer than the matrix
products. Where the plan is a table, a kernel writes what the mask says of its masked tiles as bits
(`codegen/mask_bits.py`), and a Hopper GPU's kernels of the forward and of the backward pass read
those: each of a table of its own, by query tiles and by key tiles. Bits are kept with the table,
and made anew where a captured tensor has changed. Two tiles of bits stand before those of the
table: of an outer tile without any tile, and of one whose tiles are all full. The portable kernels
evaluate the mask.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.table import RunTable
from flexdsl.codegen import Phase
from flexdsl.codegen.mask_bits import PARTS, bytes_of_tile
from flexdsl.codegen.pair_work import pair_work
from flexdsl.ir import Expr
from flexdsl.runtime.bind import Bound
from flexdsl.runtime.device_plan import Launch, given_of
from flexdsl.runtime.extremes import not_empty
from flexdsl.runtime.run_table import DeviceTable, TableWithBits, table_of_kernel

# To look at a bit is one instruction a pair. A mask of less than three of `pair_work`, as a window
# or a causal mask is, gains too little for the memory.
LEAST_WORK = 3
MOST_MIB = 64  # of a table
# Of all heads, of a closed form that is made a table: the host takes up to half a second for them.
MOST_TILES = 1 << 23
_NONE, _ALL, _FIRST = 0, 1, 2  # tiles of bits: nothing allowed, everything, those of the table


def bits_nbytes(plan: BlockPlan) -> int:
    """Bytes of the bits of a plan by a table; on a device, room for all tiles being masked."""
    grid = plan.scene.grid
    if plan.kind == "device":
        tiles = grid.batch * grid.heads * plan.q_tiles * plan.kv_tiles
    else:
        tiles = int(_masked_tiles(_runs(plan)).sum())
    return (tiles + _FIRST) * _bytes_of_tile(plan)


def with_table(bound: Bound, plan: BlockPlan) -> BlockPlan:
    """A closed form as a table where its masked tiles are to have bits; any other plan as it is."""
    if plan.closed_form is None or reason_against(bound, plan) is not None:
        return plan
    return plan.tabulated


def reason_against(bound: Bound, plan: BlockPlan) -> str | None:
    """Why a Hopper GPU's kernel of that plan evaluates the mask by itself; None: it reads bits.

    Of a closed form: why it is not to be taken as a table, which has bits.
    """
    inner = "kv" if plan.outer == "q" else "q"
    if bound.mask is None or not is_worth_bits(bound.mask.expr, inner):
        return "it takes few instructions"
    if any(isinstance(v, Tensor) and v.numel() >= 2**31 for v in bound.mask_values.values()):
        return "a captured tensor has 2**31 elements or more"
    if (against := _reason_against_table(plan)) is not None:
        return against
    if (size := bits_nbytes(plan.tabulated)) > MOST_MIB << 20:
        return f"its bits would take {mib(size)}, and {MOST_MIB} MiB is the most"
    return None


def _reason_against_table(plan: BlockPlan) -> str | None:
    """Why a closed form is not to be taken as a table; None also of other plans."""
    if plan.closed_form is None:
        return None
    if plan.device is not None:
        return "bits need a table, which a closed form saves the GPU from making"
    grid = plan.scene.grid
    tiles = grid.batch * grid.heads * plan.q_tiles * plan.kv_tiles
    if tiles > MOST_TILES:
        return f"bits need a table, which takes long to make of {tiles} tiles"
    # Kernels mask all tiles that lie apart; in a table those are what they are. On an H200 (torch
    # 2.11.0+cu130, triton 3.6.0, 2026-11-27) strides of each head took 484 microseconds, 434 so.
    if plan.closed_form.sieved is None and 2 * plan.full_tiles > plan.live_tiles:
        return "most tiles of the closed form have no mask"
    return None


def is_worth_bits(mask: Expr, inner: str) -> bool:
    """Takes a mask so many instructions a pair that its bits are worth their memory?

    Args:
        inner: along which a kernel's loops go, "kv" or "q".
    """
    return pair_work(mask, inner) >= LEAST_WORK


def mib(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / (1 << 20):.2f} MiB"


def with_bits(
    table: DeviceTable, plan: BlockPlan, bound: Bound, device: torch.device, launch: Launch
) -> TableWithBits:
    """The plan's table with the bits of its masked tiles, made once for what captures contain.

    Args:
        table: the plan's, on `device`.
        launch: runs the kernel.
    """

    def make() -> TableWithBits:
        return _make(table, plan, bound, device, launch)

    return table.bits.get((bound.mask,), device, make)


def _make(
    table: DeviceTable, plan: BlockPlan, bound: Bound, device: torch.device, launch: Launch
) -> TableWithBits:
    words = torch.empty(bits_nbytes(plan) // 4, dtype=torch.int32, device=device)
    of_tile = _bytes_of_tile(plan) // 4
    words[:of_tile].zero_()
    words[of_tile : 2 * of_tile].fill_(-1)
    table = replace(table, full_ends=_full_ends(table, plan))
    made = TableWithBits(
        *(table.offsets, table.full_ends, table.starts, table.stops, table.order),
        _first_bits(table, plan),
        words,
        kinds=table.kinds,
    )
    given: dict[str, Any] = {**vars(made), **given_of(plan, bound.mask_values)}
    tensors = {n: not_empty(v) for n, v in bound.mask_values.items() if isinstance(v, Tensor)}
    programs = len(table.full_ends) * PARTS
    phase = Phase.MASK_BITS if plan.outer == "q" else Phase.MASK_BITS_KEY
    launch(phase, bound.mask, programs, given, tensors, plan.tile_shape, device)
    return made


def _first_bits(table: DeviceTable, plan: BlockPlan) -> Tensor:
    """int32 [rows]: the tile of bits of the first tile that a kernel takes of each row.

    Args:
        table: all of whose tiles of cut keys are masked.
    """
    if plan.kind == "device":
        inner = plan.kv_tiles if plan.outer == "q" else plan.q_tiles
        rows = torch.arange(len(table.full_ends), dtype=torch.int32, device=table.offsets.device)
        last = table.offsets[1:]
        other = (table.offsets[:-1] < last).to(torch.int32) * _ALL
        return torch.where(table.full_ends < last, rows * inner + _FIRST, other)
    runs = _runs(plan)
    masked = _masked_tiles(runs)
    first = np.where(masked > 0, np.cumsum(masked) - masked + _FIRST, _NONE)
    first[(masked == 0) & (np.diff(runs.offsets) > 0)] = _ALL
    return torch.from_numpy(first.astype(np.int32)).to(table.offsets.device)


def _runs(plan: BlockPlan) -> RunTable:
    """The table of a plan on the host, as kernels that read bits take it."""
    runs = table_of_kernel(plan)
    return replace(runs, full_ends=_full_ends(runs, plan))


def _full_ends(table: RunTable | DeviceTable, plan: BlockPlan) -> Any:
    """Where the full runs of each row end: at once in a table of keys, where the keys are cut.

    Keys past the end are to be masked in every tile, since their weights can be infinite. Kernels
    that evaluate masks see to it themselves.
    """
    if plan.outer == "q" or plan.kv_len % plan.tile_shape[1] == 0:
        return table.full_ends
    cut = slice(plan.kv_tiles - 1, None, plan.kv_tiles)
    found: Any = table.full_ends + 0  # a copy
    found[cut] = table.offsets[:-1][cut]
    return found


def _masked_tiles(table: RunTable) -> np.ndarray[Any, Any]:
    """Masked tiles of each row."""
    tiles = np.where(table.full_runs(), 0, table.stops - table.starts)
    return np.bincount(table.row_of_runs(), tiles, table.rows).astype(np.int64)


def _bytes_of_tile(plan: BlockPlan) -> int:
    height, width = plan.tile_shape
    return bytes_of_tile(height, width) if plan.outer == "q" else bytes_of_tile(width, height)
