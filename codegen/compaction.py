"""The kernels that make runs of the states of tiles, a program for each row of the run table.

    plan_counts    how many runs a row has, and how many of them are full
    plan_runs      writes each run where the counts of the rows before it say

Between them the runtime adds up the counts. A row with more runs than there is room for ends in one
partial run, up to its last tile: that is more work, and as right. No mask is known here.
"""

from __future__ import annotations

from .kernel import Argument, Kernel, KernelSpec, Role
from .module import write_module
from .writer import Block

_SIZES = ("inner_tiles", "cut_tile")
_PLAIN = KernelSpec(None, None, None, 0, 0)

_COUNTS = """\
row = tl.program_id(0)
states += row.to(tl.int64) * inner_tiles
LANES: tl.constexpr = 1024
# Where the run begins that is the last one to have room.
found = 0
merged = inner_tiles
for first in range(0, inner_tiles, LANES):
    tile = first + tl.arange(0, LANES)
    state = tile_states(states, tile, inner_tiles, cut_tile, inner_tiles)
    before = tile_states(states, tile - 1, inner_tiles, cut_tile, inner_tiles)
    opens = ((state != 0) & (state != before)).to(tl.int32)
    number = found + tl.cumsum(opens, 0)
    last = (opens != 0) & (number == most_runs)
    merged = tl.minimum(merged, tl.min(tl.where(last, tile, inner_tiles), 0))
    found += tl.sum(opens, 0)
merged = tl.where(found > most_runs, merged, inner_tiles)
full = 0
partial = 0
for first in range(0, inner_tiles, LANES):
    tile = first + tl.arange(0, LANES)
    state = tile_states(states, tile, inner_tiles, cut_tile, merged)
    before = tile_states(states, tile - 1, inner_tiles, cut_tile, merged)
    opens = state != before
    full += tl.sum((opens & (state == 2)).to(tl.int32), 0)
    partial += tl.sum((opens & (state == 1)).to(tl.int32), 0)
tl.store(runs + row, full + partial)
tl.store(full_runs + row, full)
tl.store(merged_from + row, merged)"""

_RUNS = """\
row = tl.program_id(0)
states += row.to(tl.int64) * inner_tiles
LANES: tl.constexpr = 1024
merged = tl.load(merged_from + row)
for kind in tl.static_range(1, 3):
    # Full runs come first.
    opened = tl.load((offsets if kind == 2 else full_ends) + row)
    closed = opened
    for first in range(0, inner_tiles, LANES):
        tile = first + tl.arange(0, LANES)
        state = tile_states(states, tile, inner_tiles, cut_tile, merged)
        before = tile_states(states, tile - 1, inner_tiles, cut_tile, merged)
        after = tile_states(states, tile + 1, inner_tiles, cut_tile, merged)
        opens = (state == kind) & (before != kind)
        closes = (state == kind) & (after != kind)
        open_number = opened + tl.cumsum(opens.to(tl.int32), 0) - 1
        close_number = closed + tl.cumsum(closes.to(tl.int32), 0) - 1
        tl.store(starts + open_number, tile, mask=opens)
        tl.store(stops + close_number, tile + 1, mask=closes)
        opened += tl.sum(opens.to(tl.int32), 0)
        closed += tl.sum(closes.to(tl.int32), 0)"""


def generate_plan_counts(spec: KernelSpec) -> Kernel:
    """The kernel that counts; the same for every mask. Its grid is the rows of the table."""
    counts = (Argument(n, Role.COUNTS, n) for n in ("runs", "full_runs", "merged_from"))
    sizes = (Argument(s, Role.SIZE, s) for s in (*_SIZES, "most_runs"))
    arguments = (Argument("states", Role.STATES, "states"), *counts, *sizes)
    return _kernel("Counts of the runs of a plan", "plan_counts", arguments, _COUNTS)


def generate_plan_runs(spec: KernelSpec) -> Kernel:
    """The kernel that writes runs; the same for every mask. Its grid is the rows of the table."""
    table = (Argument(n, Role.TABLE, n) for n in ("offsets", "full_ends", "starts", "stops"))
    merged = Argument("merged_from", Role.COUNTS, "merged_from")
    sizes = (Argument(s, Role.SIZE, s) for s in _SIZES)
    arguments = (Argument("states", Role.STATES, "states"), merged, *table, *sizes)
    return _kernel("Runs of a plan", "plan_runs", arguments, _RUNS)


def _kernel(title: str, entry: str, arguments: tuple[Argument, ...], lines: str) -> Kernel:
    body = Block(1)
    body.line(lines)
    text = write_module(title, entry, _PLAIN, arguments, {"tile_states"}, body)
    return Kernel(text, entry, arguments)
