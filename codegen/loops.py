"""The loops over the tiles of one axis: from a plan's formulas or from its table of runs.

Full tiles and masked tiles have a loop each. With formulas there is one loop of each kind however
many intervals the mask has: it counts through the segments, so that its loads stay pipelined. Tiles
that lie apart come first in it. Which work is done in a tile is for the caller, who gets the block
of each loop's body.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from flexdsl.analysis.closed_form import BOTTOM, ClosedForm, Interval
from flexdsl.ir import Expr, Op
from flexdsl.ir.ops import SUM

from .kernel import KernelSpec, Role
from .lower import Lowering, Scope
from .programs import first_row
from .stretches import Stretches, write_stretches
from .writer import Block

# The tiles of one interval, from its ends over a whole outer tile. An end is an index on the inner
# axis; one that is missing is 0 (or less) or 2**31 - 1 (or near it). An end computed from int64
# values has 64 bits, and descriptors take 32: what is cast is at most cdiv(length, BLOCK).
TILE_RANGE = '''\
@triton.jit
def tile_range(live_lower, full_lower, full_upper, live_upper, length, BLOCK):
    """Tiles [start, stop) with an allowed pair; of them, [full_start, full_stop) are full."""
    end = tl.minimum(tl.maximum(live_upper, 0), length)
    stop = tl.where(live_lower < end, tl.cdiv(end, BLOCK), 0).to(tl.int32)
    start = tl.minimum(tl.maximum(live_lower, 0) // BLOCK, stop).to(tl.int32)
    full_start = tl.maximum(tl.cdiv(tl.maximum(full_lower, 0), BLOCK), start)
    full_start = tl.minimum(full_start, stop).to(tl.int32)
    full_stop = (tl.minimum(tl.maximum(full_upper, 0), length) // BLOCK).to(tl.int32)
    return start, full_start, tl.minimum(tl.maximum(full_stop, full_start), stop), stop
'''


@dataclass(frozen=True, slots=True)
class Axis:
    """The axis that loops run along, and the one that programs are spread over.

    Attributes:
        tile: name of the tile's number in a loop.
        length: name of the axis' length.
        block: name of a tile's length.
        first: position of index 0, as a term to subtract from a position; "" where it is 0.
        outer_tile: name of the program's own tile.
    """

    tile: str
    length: str
    block: str
    first: str
    outer_tile: str


# A run of tiles: names of its first tile and of the one after its last.
Segment = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Segments:
    """The tiles of a closed form; no tile is in two of them.

    Attributes:
        masked, full: runs of masked and of full tiles.
        stretches: masked tiles that lie apart, if there are such.
    """

    masked: list[Segment]
    full: list[Segment]
    stretches: Stretches | None


OUTER = frozenset({"q", "kv"})
KEYS = Axis("kv_tile", "kv_len", "BLOCK_N", "", "q_tile")
QUERIES = Axis("q_tile", "q_len", "BLOCK_M", " - q_offset", "kv_tile")


@dataclass(frozen=True, slots=True)
class Range:
    """The tiles of one interval: names in the kernel.

    Attributes:
        from_zero: it begins with full tiles at index 0 by its form, whatever the outer tile.
        has_full: some of its tiles may be full; none is where keys are skipped.
    """

    start: str
    full_start: str
    full_stop: str
    stop: str
    from_zero: bool
    has_full: bool

    @property
    def names(self) -> tuple[str, str, str, str]:
        """The four ends in ascending order."""
        return self.start, self.full_start, self.full_stop, self.stop


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop over tiles, whose number is set when `body` begins.

    Attributes:
        body: where its work goes.
        masked: the mask and the end of the axis are to be looked at.
    """

    body: Block
    masked: bool


def write_loops(
    axis: Axis, spec: KernelSpec, lowering: Lowering, scope: Scope, block: Block
) -> list[Loop]:
    """Write the loops of a kernel's plan into `block`, full tiles first.

    What is computed once for all loops goes to the block of `scope`.
    """
    if spec.closed_form is None:
        return list(_table_loops(axis, lowering, scope, block))
    return list(_closed_form_loops(axis, spec, spec.closed_form, lowering, scope, block))


def write_is_live(axis: Axis, spec: KernelSpec, lowering: Lowering, scope: Scope) -> str | None:
    """Write the tile ranges of an outer tile; the source of the bool that its inner tile is live.

    None where that is not known without a look at the mask: the plan is a table.
    """
    if spec.closed_form is None or spec.mask is None:
        return None
    ranges = [_tile_range(axis, i, n, lowering, scope) for n, i in _ordered(spec.closed_form)]
    inside = [f"(({axis.tile} >= {r.start}) & ({axis.tile} < {r.stop}))" for r in ranges]
    stretches = _write_stretches(axis, spec.closed_form, [], lowering, scope)
    if stretches is not None:
        inside.append(f"({stretches.has(axis.tile)})")
    return " | ".join(inside) or "False"


def write_segments(axis: Axis, form: ClosedForm, lowering: Lowering, scope: Scope) -> Segments:
    """Write the tile ranges of a closed form."""
    ranges = [_tile_range(axis, i, n, lowering, scope) for n, i in _ordered(form)]
    _make_disjoint(ranges, lowering, scope.block)
    return Segments(
        [segment for r in ranges for segment in _masked_parts(r)],
        [(r.full_start, r.full_stop) for r in ranges if r.has_full],
        _write_stretches(axis, form, ranges, lowering, scope),
    )


def _write_stretches(
    axis: Axis, form: ClosedForm, ranges: list[Range], lowering: Lowering, scope: Scope
) -> Stretches | None:
    if form.sieved is None:
        return None
    outer = "q" if form.inner == "kv" else "kv"
    others = [(r.start, r.stop) for r in ranges]
    inner = axis.length, axis.block, axis.first
    return write_stretches(form.sieved, outer, inner, others, lowering, scope)


def _masked_parts(tiles: Range) -> list[Segment]:
    """Where tiles of a range may be partial."""
    if not tiles.has_full:
        return [(tiles.start, tiles.stop)]
    after = (tiles.full_stop, tiles.stop)
    return [after] if tiles.from_zero else [(tiles.start, tiles.full_start), after]


def _closed_form_loops(
    axis: Axis,
    spec: KernelSpec,
    form: ClosedForm,
    lowering: Lowering,
    scope: Scope,
    block: Block,
) -> Iterator[Loop]:
    found = write_segments(axis, form, lowering, scope)
    for segments, stretches, title in (
        (found.full, None, "Full tiles: every pair is allowed."),
        (
            found.masked,
            found.stretches,
            "Masked tiles: the mask is looked at, and the end of the axis.",
        ),
    ):
        is_masked = segments is found.masked
        if segments or stretches is not None:
            block.line()
            only_end = is_masked and spec.mask is None  # no other tile needs a look
            block.comment("The last tile, if it is cut." if only_end else title)
            yield from _counted_loop(axis, segments, stretches, is_masked, lowering, block)


def _ordered(form: ClosedForm) -> Iterator[tuple[str, Interval]]:
    """Intervals with tiles side by side and a suffix for their names; those from key 0 on first."""
    intervals = sorted(form.plain, key=lambda i: not _from_zero(i))
    for number, interval in enumerate(intervals):
        yield (f"_{number}" if len(intervals) > 1 else ""), interval


def _from_zero(interval: Interval) -> bool:
    ends = (interval.live_lower, interval.full_lower)
    return all(e.op is Op.CONST and e.attribute == 0 for e in ends)


def _tile_range(
    axis: Axis, interval: Interval, suffix: str, lowering: Lowering, scope: Scope
) -> Range:
    """Write the tile range of one interval, from its ends in positions.

    Bounds by rows are reduced over the rows of the outer tile.
    """
    has_full = interval.sieve is None
    full = (interval.full_lower, interval.full_upper) if has_full else (BOTTOM, BOTTOM)
    roots = (interval.live_lower, *full, interval.live_upper)
    ends = lowering.lower(roots, scope, least=SUM if axis.first else 0)
    if interval.by_rows:
        scope.block.comment("The least and the largest ends of the rows of this tile.")
    reduced = zip(roots, ends, ("min", "max", "min", "max"), strict=True)
    language = lowering.language
    ends = [_end_of_tile(root, end, extreme, language) for root, end, extreme in reduced]
    ends = [f"{end}{axis.first}" for end in ends]
    lowering.helpers.add("tile_range")
    wanted = ("start", "full_start", "full_stop", "stop")
    names = [lowering.names.fresh(f"{n}{suffix}") for n in wanted]
    call = f"tile_range({', '.join(ends)}, {axis.length}, {axis.block})"
    scope.block.line(f"{', '.join(names)} = {call}")
    start, full_start, full_stop, stop = names
    return Range(start, full_start, full_stop, stop, _from_zero(interval), has_full)


def _end_of_tile(root: Expr, end: str, extreme: str, language: str) -> str:
    """An end over the rows of a tile."""
    return f"{language}.{extreme}({end})" if OUTER.intersection(root.variables) else end


def _make_disjoint(ranges: list[Range], lowering: Lowering, block: Block) -> None:
    """Write what sorts the ranges by their start and cuts each where the one before it ends.

    A range that begins at tile 0 by its form stands first already.
    """
    if len(ranges) < 2:
        return
    block.comment("In ascending order, none beginning before the one before it ends.")
    where = f"{lowering.language}.where"
    first = sum(r.from_zero for r in ranges)
    for end in range(len(ranges) - 1, first, -1):
        for a, b in pairwise(ranges[first : end + 1]):
            block.line(f"swap = {a.start} > {b.start}")
            for x, y in zip(a.names, b.names, strict=True):
                block.line(f"{x}, {y} = {where}(swap, {y}, {x}), {where}(swap, {x}, {y})")
    for before, after in pairwise(ranges):
        for name in after.names:
            block.line(f"{name} = {lowering.language}.maximum({name}, {before.stop})")


def _counted_loop(
    axis: Axis,
    segments: list[Segment],
    stretches: Stretches | None,
    masked: bool,
    lowering: Lowering,
    block: Block,
) -> Iterator[Loop]:
    """Write one loop that counts through tiles that lie apart, then through `segments`, each
    [start, stop) of tiles.
    """
    if len(segments) == 1 and stretches is None:
        start, stop = segments[0]
        with block.indented(f"for {axis.tile} in tl.range({start}, {stop}):") as body:
            yield Loop(body, masked)
        return
    fresh = lowering.names.fresh
    kind = "masked" if masked else "full"
    ends: list[str] = []  # how many tiles those so far have, one name each
    apart = axis.tile
    if stretches is not None:
        block.comment("How many tiles lie apart; which one comes next is computed in the loop.")
        ends.append(stretches.write_count(block, lowering))
        apart = fresh("stretch_tile") if segments else axis.tile
        block.line(f"{apart} = {stretches.start} - 1")
    for start, stop in segments:
        name = fresh(f"{kind}_count")
        block.line(f"{name} = {ends[-1] + ' + ' if ends else ''}{stop} - {start}")
        ends.append(name)
    step = fresh("step")
    with block.indented(f"for {step} in tl.range(0, {ends[-1]}):") as body:
        if stretches is not None:
            stretches.write_next(body, apart, f"{apart} + 1")
        if segments:
            tile = f"{step} + {shift_of_segment(segments, ends, step)}"
            is_apart = f"{step} < {ends[0]}"
            tile = tile if stretches is None else f"tl.where({is_apart}, {apart}, {tile})"
            body.line(f"{axis.tile} = {tile}")
        yield Loop(body, masked)


def shift_of_segment(segments: list[Segment], ends: list[str], step: str) -> str:
    """The source of what to add to `step` to get the tile, by the segment that it falls into.

    Args:
        ends: the step after each segment; before them, that after tiles that lie apart, if any.
    """
    befores = ["", *ends][-len(segments) - 1 : -1]
    shifts = [f"{s} - {b}" if b else s for (s, _), b in zip(segments, befores, strict=True)]
    shift = shifts.pop()
    for chosen, end in zip(reversed(shifts), reversed(ends[-len(segments) : -1]), strict=True):
        shift = f"tl.where({step} < {end}, {chosen}, {shift})"
    return shift


def _table_loops(axis: Axis, lowering: Lowering, scope: Scope, block: Block) -> Iterator[Loop]:
    row = f"{first_row(lowering)} + {axis.outer_tile}"
    starts, stops, ranges = write_row_of_runs(row, lowering, scope)
    for title, start, stop, masked in ranges:
        block.line()
        block.comment(title)
        with block.indented(f"for run in range({start}, {stop}):") as runs:
            runs.line(f"run_start = tl.load({starts} + run)")
            runs.line(f"run_stop = tl.load({stops} + run)")
            with runs.indented(f"for {axis.tile} in tl.range(run_start, run_stop):") as body:
                yield Loop(body, masked)


# A comment on runs of a table, names of the first one and of the one after the last, masked?
Runs = tuple[str, str, str, bool]


def write_row_of_runs(
    row: str, lowering: Lowering, scope: Scope
) -> tuple[str, str, tuple[Runs, Runs]]:
    """Write which runs a row of the table has; names of `starts` and `stops`, and those runs.

    Args:
        row: source of its number.
    """
    offsets, full_ends, starts, stops = (
        lowering.argument(Role.TABLE, n) for n in ("offsets", "full_ends", "starts", "stops")
    )
    scope.block.line(f"row_of_runs = {row}")
    scope.block.line(f"first_run = tl.load({offsets} + row_of_runs)")
    scope.block.line(f"full_end = tl.load({full_ends} + row_of_runs)")
    scope.block.line(f"last_run = tl.load({offsets} + row_of_runs + 1)")
    full = ("Runs of full tiles: every pair is allowed.", "first_run", "full_end", False)
    masked = ("Runs of masked tiles: the mask is looked at.", "full_end", "last_run", True)
    return starts, stops, (full, masked)
