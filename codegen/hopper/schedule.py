"""The order in which a program of a Hopper kernel goes through its tiles.

The producer and the consumers walk the same tiles, each with a count of its own, `step`, from which
both know a tile's place in shared memory. Step 0 stands before the loops and is treated as masked,
so that a loop begins with work under way. A program without any tile takes one whose pairs are all
masked away.

With one loop, and from a table, masked tiles come first: step 0 is then one of them where there are
any, and a mask of nothing but the end of the keys is no matter of the loop. With two loops from
formulas full tiles do: the loop that starts at 1 has its count in uniform registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flexdsl.analysis.closed_form import ClosedForm

from ..kernel import KernelSpec, Role
from ..loops import Axis, Segment, write_segments
from ..lower import Lowering, Scope
from ..writer import Block


@dataclass(frozen=True, slots=True)
class Walk:
    """A loop over tiles one after the other.

    Attributes:
        body: where the work of a tile goes.
        masked: the mask and the end of the axis are to be looked at.
        before: where goes what is done once before the loop.
        first, following: sources of the first tile, and in the body of the one after the tile at
            hand; of the last one any number, not a tile.
    """

    body: Block
    masked: bool
    before: Block
    first: str
    following: str


@dataclass(frozen=True)
class Schedule:
    """What the kernel computed once, for both partitions to walk by.

    Attributes:
        handed: names of the scalars and pointers that a partition needs.
        axis: along which the tiles lie.
        last_step: source of the number of the last step, after the loop.
        masked: in the one loop, source of the bool that the tile is to be masked; "" where none
            is.
        more_than_one: source of the bool that there is a tile after the first one.
        more: in the one loop, source of the bool that there is a tile after the one at hand.
    """

    handed: tuple[str, ...]
    axis: Axis
    last_step: str
    masked: str
    more_than_one: str
    more: str

    @contextmanager
    def loop(self, block: Block) -> Iterator[Block]:
        """Write one loop over all steps but the first; its body has `step` and the tile.

        Before it `step` is 0.
        """
        raise NotImplementedError
        yield block

    def loops(self, block: Block) -> Iterator[Walk]:
        """Write the same as two loops, one for masked and one for full tiles."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Span:
    """A segment and its place in the order: its first tile, its first step, the step after it."""

    start: str
    begin: str
    end: str


@dataclass(frozen=True)
class _Counted(Schedule):
    """From formulas: the segments one after the other, counted through.

    Attributes:
        full_count: with two loops, source of the number of tiles that are not to be masked.
    """

    spans: tuple[_Span, ...]
    full_count: str

    @contextmanager
    def loop(self, block: Block) -> Iterator[Block]:
        with self._loop("1", "last_step + 1", block) as body:
            yield body

    def loops(self, block: Block) -> Iterator[Walk]:
        after_full = f"gl.maximum({self.full_count}, 1)"
        following = _tile_at("(step + 1)", self.spans)
        for start, stop, masked in (
            ("1", self.full_count, False),
            (after_full, "last_step + 1", True),
        ):
            before, first = block.block(), _tile_at(start, self.spans)
            with self._loop(start, stop, block) as body:
                yield Walk(body, masked, before, first, following)

    @contextmanager
    def _loop(self, start: str, stop: str, block: Block) -> Iterator[Block]:
        with block.indented(f"for step in range({start}, {stop}):") as body:
            body.line(f"{self.axis.tile} = {_tile_at('step', self.spans)}")
            yield body


def _tile_at(step: str, spans: tuple[_Span, ...]) -> str:
    """The source of the tile of a step; 0 where there is no span at all."""
    if not spans:
        return "0"
    shifts = [s.start if s.begin == "0" else f"{s.start} - {s.begin}" for s in spans]
    chosen = shifts[-1]
    for span, shift in zip(spans[-2::-1], shifts[-2::-1], strict=True):
        chosen = f"gl.where({step} < {span.end}, {shift}, {chosen})"
    return chosen if step == "0" else f"{step} + {chosen}"


@dataclass(frozen=True)
class _Runs(Schedule):
    """From a table: its masked runs, then its full ones, so that the first tile is a masked one."""

    @contextmanager
    def loop(self, block: Block) -> Iterator[Block]:
        tile = self.axis.tile
        block.line("run = leading_run\nrun_start = first_tile + 1\nrun_stop = first_stop")
        with block.indented("for turn in range(first_run, last_run):") as runs:
            runs.comment("The ends of the run after this one are on their way meanwhile.")
            runs.line("following = turn + 1 + (full_end - first_run)")
            past = "following - (last_run - first_run)"
            runs.line(f"following = gl.where(following < last_run, following, {past})")
            for end in ("start", "stop"):
                loaded = f"gl.load({end}s + following, mask=turn + 1 < last_run, other=0)"
                runs.line(f"next_{end} = {loaded}")
            with runs.indented(f"for {tile} in range(run_start, run_stop):") as body:
                body.line("step += 1")
                yield body
            runs.line("run, run_start, run_stop = following, next_start, next_stop")

    def loops(self, block: Block) -> Iterator[Walk]:
        orders = ("full_end", "last_run", True), ("first_run", "full_end", False)
        for start, stop, masked in orders:
            with block.indented(f"for run in range({start}, {stop}):") as runs:
                runs.line("run_start = gl.load(starts + run) + (run == leading_run).to(gl.int32)")
                before, tile = runs.block(), self.axis.tile
                with runs.indented(
                    f"for {tile} in range(run_start, gl.load(stops + run)):"
                ) as body:
                    body.line("step += 1")
                    yield Walk(body, masked, before, "run_start", f"{tile} + 1")


def write_schedule(
    axis: Axis,
    spec: KernelSpec,
    rows: int,
    lowering: Lowering,
    scope: Scope,
    all_masked: str = "",
    warps: int = 4,
) -> Schedule:
    """Write what the partitions walk by, `first_tile` among it, into the block of `scope`.

    Args:
        rows: outer positions of a program.
        all_masked: source of the bool that every tile of the program is to be masked, for a
            schedule of two loops; "" for one of one loop.
        warps: that compute it.
    """
    if spec.closed_form is None:
        return _write_runs(axis, lowering, scope, all_masked)
    if spec.closed_form.by_rows:
        _write_outer(spec.closed_form, rows, warps, scope)
    masked, full = write_segments(axis, spec.closed_form, lowering, scope)
    block, count = scope.block, "0"
    spans: list[_Span] = []
    for segment in (*full, *masked) if all_masked else (*masked, *full):
        spans.append(_write_span(segment, count, lowering, block))
        count = spans[-1].end
    block.line(f"last_step = gl.maximum({count}, 1) - 1")
    block.line(f"first_tile = {_tile_at('0', tuple(spans))}")
    names = dict.fromkeys(n for s in spans for n in (s.start, s.begin, s.end) if n != "0")
    full_count, is_masked = "", ""
    if all_masked:
        counted = spans[len(full) - 1].end if full else "0"
        chosen = f"gl.where({all_masked}, 0, {counted})"
        full_count = _assign("full_count", chosen, lowering, block)
        names[full_count] = None
    elif masked and spec.mask is not None:
        is_masked = f"step < {spans[len(masked) - 1].end}"
    handed = (*names, "first_tile", "last_step")
    ends = "last_step > 0", "step < last_step"
    return _Counted(handed, axis, "last_step", is_masked, *ends, tuple(spans), full_count)


def end_of_tiles(spec: KernelSpec, length: str) -> str:
    """The source of where a masked tile ends: at once if no pair is allowed anywhere."""
    form = spec.closed_form
    return "0" if form is not None and not form.intervals else length


def _write_outer(form: ClosedForm, rows: int, warps: int, scope: Scope) -> None:
    """Write the outer positions of the program, for bounds by rows.

    Their number is made a power of two. Those past the last one stand for the last one.
    """
    outer = "q" if form.inner == "kv" else "kv"
    count = 1 << (rows - 1).bit_length()
    name = scope.variables[outer] = f"{outer}_of_tile"
    positions = f"gl.arange(0, {count}, gl.BlockedLayout([1], [32], [{warps}], [0]))"
    scope.block.line(f"{name} = gl.minimum({outer}_first + {positions}, {outer}_last)")


def _assign(wanted: str, text: str, lowering: Lowering, block: Block) -> str:
    name = lowering.names.fresh(wanted)
    block.line(f"{name} = {text}")
    return name


def _write_span(segment: Segment, count: str, lowering: Lowering, block: Block) -> _Span:
    start, stop = segment
    before = "" if count == "0" else f"{count} + "
    end = _assign("count", f"{before}{stop} - {start}", lowering, block)
    return _Span(start, count, end)


def _write_runs(axis: Axis, lowering: Lowering, scope: Scope, all_masked: str) -> Schedule:
    table = [lowering.argument(Role.TABLE, n) for n in ("offsets", "full_ends", "starts", "stops")]
    strides = [lowering.argument(Role.TABLE_STRIDE, n, 0, f"table_stride_{n}") for n in "bh"]
    block = scope.block
    block.line(f"row_of_runs = b * {strides[0]} + h * {strides[1]} + {axis.outer_tile}")
    block.line(f"first_run = gl.load({table[0]} + row_of_runs)")
    block.line(f"full_end = gl.load({table[1]} + row_of_runs)")
    block.line(f"last_run = gl.load({table[0]} + row_of_runs + 1)")
    if all_masked:
        block.line(f"full_end = gl.where({all_masked}, first_run, full_end)")
    block.line("leading_run = gl.where(full_end < last_run, full_end, first_run)")
    block.line(
        f"first_tile = gl.load({table[2]} + leading_run, mask=first_run < last_run, other=0)"
    )
    stop = f"gl.load({table[3]} + leading_run, mask=first_run < last_run, other=0)"
    block.line(f"first_stop = {stop}")
    ends = ("first_run", "full_end", "last_run", "leading_run", "first_tile", "first_stop")
    handed = (*ends, *table[2:])
    after_first = "(first_run + 1 < last_run) | (first_tile + 1 < first_stop)"
    more = f"(turn + 1 < last_run) | ({axis.tile} + 1 < run_stop)"
    return _Runs(handed, axis, "step", "run >= full_end", after_first, more)
