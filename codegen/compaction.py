"""The kernels that make runs of the states of tiles, a program for each row of the run table.

    plan_counts    how many live tiles a row has, how many runs, and how many of those are full
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
merged = inner_tiles
live = 0
found = 0
full = 0
for first in range(0, inner_tiles, LANES):
    tile = first + tl.arange(0, LANES)
    state = tile_states(states, tile, inner_tiles, cut_tile, inner_tiles)
    before = tile_states(states, tile - 1, inner_tiles, cut_tile, inner_tiles)
    opens = ((state != 0) & (state != before)).to(tl.int32)
    opened = tl.sum(opens, 0)
    live += tl.sum((state != 0).to(tl.int32), 0)
    if (found < most_runs) & (found + opened >= most_runs):
        last = (opens != 0) & (found + tl.cumsum(opens, 0) == most_runs)
        merged = tl.minimum(merged, tl.min(tl.where(last, tile, inner_tiles), 0))
    if opened > 0:
        full += tl.sum(tl.where(state & 3 == 2, opens, 0), 0)
    found += opened
merged = tl.where(found > most_runs, merged, inner_tiles)
if found > most_runs:
    live = 0
    found = 0
    full = 0
    for first in range(0, inner_tiles, LANES):
        tile = first + tl.arange(0, LANES)
        state = tile_states(states, tile, inner_tiles, cut_tile, merged)
        before = tile_states(states, tile - 1, inner_tiles, cut_tile, merged)
        opens = ((state != 0) & (state != before)).to(tl.int32)
        live += tl.sum((state != 0).to(tl.int32), 0)
        found += tl.sum(opens, 0)
        full += tl.sum(tl.where(state & 3 == 2, opens, 0), 0)
tl.store(tiles + row, live)
tl.store(runs + row, found)
tl.store(full_runs + row, full)
tl.store(merged_from + row, merged)"""

_RUNS = """\
row = tl.program_id(0)
states += row.to(tl.int64) * inner_tiles
LANES: tl.constexpr = 1024
FULL: tl.constexpr = 65536
merged = tl.load(merged_from + row)
# Full runs come first. Runs that have begun, and that have ended, are counted in one number each:
# full ones in its upper half.
full_first = tl.load(offsets + row)
partial_first = tl.load(full_ends + row)
opened_full = 0
opened_partial = 0
closed_full = 0
closed_partial = 0
for first in range(0, inner_tiles, LANES):
    tile = first + tl.arange(0, LANES)
    state = tile_states(states, tile, inner_tiles, cut_tile, merged)
    before = tile_states(states, tile - 1, inner_tiles, cut_tile, merged)
    after = tile_states(states, tile + 1, inner_tiles, cut_tile, merged)
    one = tl.where(state & 3 == 2, FULL, 1)
    opens = tl.where((state != 0) & (before != state), one, 0)
    closes = tl.where((state != 0) & (after != state), one, 0)
    opened = tl.sum(opens, 0)
    closed = tl.sum(closes, 0)
    if (opened != 0) | (closed != 0):
        begun = tl.cumsum(opens, 0)
        ended = tl.cumsum(closes, 0)
        of_full = full_first + opened_full + begun // FULL - 1
        of_partial = partial_first + opened_partial + begun % FULL - 1
        tl.store(starts + tl.where(state & 3 == 2, of_full, of_partial), tile, mask=opens != 0)
        of_full = full_first + closed_full + ended // FULL - 1
        of_partial = partial_first + closed_partial + ended % FULL - 1
        tl.store(stops + tl.where(state & 3 == 2, of_full, of_partial), tile + 1, mask=closes != 0)
    opened_full += opened // FULL
    opened_partial += opened % FULL
    closed_full += closed // FULL
    closed_partial += closed % FULL"""


def generate_plan_counts(spec: KernelSpec) -> Kernel:
    """The kernel that counts; the same for every mask. Its grid is the rows of the table."""
    counts = (Argument(n, Role.COUNTS, n) for n in ("tiles", "runs", "full_runs", "merged_from"))
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
