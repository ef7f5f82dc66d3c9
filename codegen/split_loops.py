"""The loops over a program's share of the key tiles, where several programs share those of a row.

Of all live tiles, in the order in which they are visited, a split has every splits-th: whatever the
mask is, no split has more than one tile more than another. Tiles that lie apart are found one from
the other, so of those a split has what lies in a part of the axis. Which are live: `loops.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from flexdsl.analysis.closed_form import ClosedForm

from .kernel import KernelSpec
from .loops import (
    KEYS,
    Loop,
    Segment,
    Segments,
    shift_of_segment,
    write_row_of_runs,
    write_segments,
)
from .lower import Lowering, Scope
from .programs import first_row
from .stretches import Stretches
from .writer import Block

_RUNS = 512  # of a table that are looked at together: four for each thread
SHARE_OF = '''\
@triton.jit
def share_of(tiles, before, split, splits):
    """Of `tiles` tiles that come after `before` others: the split's first one, and how many."""
    first = (split + splits - before % splits) % splits
    return first, (tiles - first + splits - 1) // splits
'''


def write_split_loops(
    spec: KernelSpec, lowering: Lowering, scope: Scope, block: Block
) -> Iterator[Loop]:
    """Write the loops of a split into `block`, full tiles first.

    Args:
        scope: where the query tile is known; what is computed once goes to its block.
    """
    lowering.helpers.add("share_of")
    if spec.closed_form is None:
        return _table_loops(lowering, scope, block)
    only_end = spec.mask is None  # no other tile needs a look
    return _closed_form_loops(spec.closed_form, only_end, lowering, scope, block)


def _closed_form_loops(
    form: ClosedForm, only_end: bool, lowering: Lowering, scope: Scope, block: Block
) -> Iterator[Loop]:
    """The loops of formulas.

    Args:
        only_end: no tile is masked but the last one, if it is cut.
    """
    found = write_segments(KEYS, form, lowering, scope)
    full = _write_counts(found.full, "full", lowering, block)
    masked = _write_counts(found.masked, "masked", lowering, block)
    if found.full:
        block.line()
        block.comment("Full tiles: every pair is allowed.")
        first, count = _write_share(full[-1], "0", lowering, block)
        with block.indented(f"for step in tl.range(0, {count}):") as body:
            _write_tile(body, found.full, full, f"{first} + step * splits")
            yield Loop(body, masked=False)
    before = full[-1] if full else "0"
    if found.masked or found.stretches is not None:
        block.line()
        title = "Masked tiles: the mask is looked at, and the end of the axis."
        block.comment("The last tile, if it is cut." if only_end else title)
    if found.stretches is not None:
        yield _loop_apart(found, masked, before, lowering, block)
    elif found.masked:
        first, count = _write_share(masked[-1], before, lowering, block)
        with block.indented(f"for step in tl.range(0, {count}):") as body:
            _write_tile(body, found.masked, masked, f"{first} + step * splits")
            yield Loop(body, masked=True)


def _loop_apart(
    found: Segments, ends: list[str], before: str, lowering: Lowering, block: Block
) -> Loop:
    """Write the loop through tiles that lie apart, then through masked tiles side by side.

    Args:
        ends, before: as of `_write_tile` and of `_write_share`, for the latter.
    """
    assert found.stretches is not None
    stretches = _write_own_part(found.stretches, lowering, block)
    apart = stretches.write_count(block, lowering)
    block.line(f"tile_apart = {stretches.start} - 1")
    if not found.masked:
        with block.indented(f"for step in tl.range(0, {apart}):") as body:
            stretches.write_next(body, "tile_apart", "tile_apart + 1")
            body.line("kv_tile = tile_apart")
        return Loop(body, masked=True)
    first, count = _write_share(ends[-1], before, lowering, block)
    with block.indented(f"for step in tl.range(0, {apart} + {count}):") as body:
        stretches.write_next(body, "tile_apart", "tile_apart + 1")
        _write_tile(body, found.masked, ends, f"{first} + (step - {apart}) * splits")
        body.line(f"kv_tile = tl.where(step < {apart}, tile_apart, kv_tile)")
    return Loop(body, masked=True)


def _write_counts(
    segments: list[Segment], kind: str, lowering: Lowering, block: Block
) -> list[str]:
    """Write how many tiles the segments up to each one have; the names."""
    ends: list[str] = []
    for start, stop in segments:
        name = lowering.names.fresh(f"{kind}_count")
        block.line(f"{name} = {ends[-1] + ' + ' if ends else ''}{stop} - {start}")
        ends.append(name)
    return ends


def _write_share(tiles: str, before: str, lowering: Lowering, block: Block) -> tuple[str, str]:
    """Write which of `tiles` tiles is the split's first one, and how many are; the names."""
    first, count = (lowering.names.fresh(n) for n in ("first_of_split", "tiles_of_split"))
    block.line(f"{first}, {count} = share_of({tiles}, {before}, split, splits)")
    return first, count


def _write_own_part(stretches: Stretches, lowering: Lowering, block: Block) -> Stretches:
    """Write the part of the axis where the split has the tiles that lie apart; those tiles."""
    wanted = ("stretch_part", "stretch_start", "stretch_end")
    part, start, end = (lowering.names.fresh(n) for n in wanted)
    block.line(f"{part} = tl.cdiv({stretches.stop} - {stretches.start}, splits)")
    block.line(f"{start} = {stretches.start} + split * {part}")
    block.line(f"{end} = tl.minimum({start} + {part}, {stretches.stop})")
    return replace(stretches, start=start, stop=end)


def _write_tile(body: Block, segments: list[Segment], ends: list[str], nth: str) -> None:
    """Write the tile of a step.

    Args:
        ends: how many tiles the segments up to each one have.
        nth: source of which of those it is.
    """
    body.line(f"nth = {nth}")
    body.line(f"kv_tile = nth + {shift_of_segment(segments, ends, 'nth')}")


def _table_loops(lowering: Lowering, scope: Scope, block: Block) -> Iterator[Loop]:
    """The loops through the tiles of a table, whose runs are looked at together.

    A run may be as short as a tile: a loop for each of them would not load ahead.
    """
    row = first_row(lowering, "first_head")
    starts, stops, ranges = write_row_of_runs(row, lowering, scope)
    block.line("passed = 0")
    for title, start, stop, masked in ranges:
        block.line()
        block.comment(title)
        with block.indented(f"for run in range({start}, {stop}, {_RUNS}):") as runs:
            runs.line(f"runs = run + tl.arange(0, {_RUNS})")
            runs.line(f"run_start = tl.load({starts} + runs, mask=runs < {stop}, other=0)")
            runs.line(f"run_stop = tl.load({stops} + runs, mask=runs < {stop}, other=0)")
            runs.comment("How many tiles end with each run, and how many come before it.")
            runs.line("run_end = tl.cumsum(run_stop - run_start, 0)")
            runs.line("before_run = run_end - (run_stop - run_start)")
            runs.line("tiles = tl.sum(run_stop - run_start, 0)")
            first, count = _write_share("tiles", "passed", lowering, runs)
            with runs.indented(f"for step in tl.range(0, {count}):") as body:
                body.line(f"nth = {first} + step * splits")
                body.line("of_run = (nth >= before_run) & (nth < run_end)")
                shift = "tl.where(of_run, run_start - before_run, 0)"
                body.line(f"kv_tile = nth + tl.sum({shift}, 0)")
                yield Loop(body, masked)
            runs.line("passed += tiles")
