"""States and kinds of the tiles of a table on a device, for consumers that skip tiles.

Each consumer has a part of an outer tile: some of its queries, or of its keys in the backward pass.
What the states of the parts' own tiles say becomes one number for a tile: a state, which is of the
parts that have a pair in it, and which ones these are. A tile that is full for some parts and empty
for the others needs no mask.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from flexdsl.codegen.hopper.works import FULL, MASKED, kind_for
from flexdsl.runtime.run_table import DeviceTable

_PARTIAL_STATE, _FULL_STATE = 1, 2  # of a tile
_PARTS = 2  # bits of a state below those of its parts


def joined(states: Tensor, parts: int) -> Tensor:
    """int8 [..., tiles, inner tiles]: the states of tiles of `parts` rows of `states`.

    Args:
        states: int8 [..., rows, inner tiles] of 0 empty, 1 partial, 2 full.
    """
    of_parts = pad(states, (0, 0, 0, -states.shape[-2] % parts)).unflatten(-2, (-1, parts))
    shifts = torch.arange(_PARTS, _PARTS + parts, dtype=torch.int8, device=states.device)
    live = (of_parts != 0).to(torch.int8) << shifts[:, None]
    partial = (of_parts == _PARTIAL_STATE).any(-2)
    groups = live.sum(-2, dtype=torch.int8)
    state = torch.where(partial, _PARTIAL_STATE, _FULL_STATE).to(torch.int8)
    return torch.where(groups != 0, groups | state, 0).to(torch.int8)


def with_kinds(table: DeviceTable, states: Tensor, merged_from: Tensor, parts: int) -> DeviceTable:
    """The table with what its notes say of the tiles of each run.

    Args:
        table: of all `states` of a number one after the other, in runs of tiles.
        states: as `joined` gives them, [batch, heads, outer tiles, inner tiles].
        merged_from: int32 [rows]: the tile from which on a row is one masked run for all parts.
    """
    run = torch.arange(len(table.starts), dtype=torch.int32, device=states.device)
    row = torch.searchsorted(table.offsets[1:], run, right=True).clamp_(max=len(merged_from) - 1)
    start = table.starts.clamp(0, states.shape[-1] - 1)  # there is more room than runs
    groups = states.flatten(0, -2)[row, start].to(torch.int32) >> _PARTS
    groups = torch.where(table.starts < merged_from[row], groups, (1 << parts) - 1)
    kind = torch.where(run < table.full_ends[row], FULL, MASKED)
    kinds = (groups * kind_for(0, 1) | kind).to(torch.int32)
    return replace(table, kinds=kinds)
