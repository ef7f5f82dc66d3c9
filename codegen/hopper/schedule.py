"""The order in which a Hopper kernel goes through the tiles of a work.

The producer walks them, and tells the consumers by notes (`works.py`). Step 0 stands before the
loop and is treated as masked, so that the loop begins with work under way. A work without any tile
takes one whose pairs are all masked away. Masked tiles come first: step 0 is then one of them where
there are any, and a mask of nothing but the end of the axis is no matter of the loop. Tiles that
lie apart are masked ones and come before all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flexdsl.analysis.closed_form import ClosedForm

from ..kernel import KernelSpec, Role
from ..loops import Axis, Segment, write_segments
from ..lower import Lowering, Scope
from ..programs import first_row
from ..stretches import Stretches
from ..writer import Block
from .works import FULL, MASKED, NOTHING


@dataclass(frozen=True)
class Schedule:
    """What the producer computed once for a work, to walk by: `first_tile`, and the loop.

    Attributes:
        axis: along which the tiles lie.
        masks: a tile after the first one may be masked.
        after_first: source of what comes after the first tile, as notes say it.
        after: in the loop, source of what comes after the tile at hand.
    """

    axis: Axis
    masks: bool
    after_first: str
    after: str

    @contextmanager
    def loop(self, block: Block) -> Iterator[Block]:
        """Write the loop over all tiles but the first; its body has the tile."""
        raise NotImplementedError
        yield block


@dataclass(frozen=True, slots=True)
class _Span:
    """A segment and its place in the order: its first tile, its first step, the step after it."""

    start: str
    begin: str
    end: str


@dataclass(frozen=True)
class _Counted(Schedule):
    """From formulas: the segments one after the other, counted through."""

    spans: tuple[_Span, ...]

    @contextmanager
    def loop(self, block: Block) -> Iterator[Block]:
        with block.indented("for step in range(1, last_step + 1):") as body:
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
class _Apart(Schedule):
    """From formulas: first the tiles that lie apart, then the others, counted through."""

    spans: tuple[_Span, ...]
    stretches: Stretches

    @contextmanager
    def loop(self, block: Block) -> Iterator[Block]:
        tile, is_apart = self.axis.tile, f"apart < {self.stretches.stop}"
        with block.indented(f"while ({is_apart}) | (step < steps):") as body:
            following = _tile_at("step", self.spans)
            body.line(f"{tile} = gl.where({is_apart}, apart, {following})")
            body.line(f"step = gl.where({is_apart}, step, step + 1)")
            self.stretches.write_next(body, "apart", "apart + 1")
            yield body


@dataclass(frozen=True)
class _Runs(Schedule):
    """From a table: its masked runs, then its full ones, so that the first tile is a masked one.

    Attributes:
        kinds: source of what the notes say of the tiles of each run, in the table's order, where
            consumers skip tiles; "" elsewhere.
    """

    kinds: str

    @contextmanager
    def loop(self, block: Block) -> Iterator[Block]:
        tile = self.axis.tile
        block.line(f"{tile} = first_tile + 1\nrun_stop = first_stop")
        block.line("kind = leading_kind\nfollowing = second_run\nnext_kind = second_kind")
        with block.indented("for turn in range(first_run, last_run):") as runs:
            runs.comment("The ends of the run after this one are on their way meanwhile.")
            for end in ("start", "stop"):
                loaded = f"gl.load({end}s + following, mask=turn + 1 < last_run, other=0)"
                runs.line(f"next_{end} = {loaded}")
            if self.kinds:
                _write_following(runs, "(turn + 2)", "later", "later_kind", self.kinds)
            # A `for` whose ends the loop around it carries keeps the first ones in Triton 3.6, 3.7.
            with runs.indented(f"while {tile} < run_stop:") as body:
                yield body
                body.line(f"{tile} += 1")
            runs.line(f"{tile} = next_start\nrun_stop = next_stop\nkind = next_kind")
            if self.kinds:
                runs.line("following = later\nnext_kind = later_kind")
            else:
                _write_following(runs, "(turn + 2)", "following", "next_kind", "")


def _write_following(block: Block, turn: str, run: str, kind: str, kinds: str) -> None:
    """Write which run has a turn, and the kind of its tiles; of turns past the last one, nothing.

    Masked runs come first, which stand behind the full ones in the table.
    """
    block.line(f"{run} = {turn} + (full_end - first_run)")
    past = f"{run} - (last_run - first_run)"
    block.line(f"{run} = gl.where({run} < last_run, {run}, {past})")
    if kinds:
        block.line(f"{kind} = gl.load({kinds} + {run}, mask={turn} < last_run, other={NOTHING})")
        return
    of_run = f"gl.where({run} < full_end, {FULL}, {MASKED})"
    block.line(f"{kind} = gl.where({turn} < last_run, {of_run}, {NOTHING})")


def write_schedule(
    axis: Axis, spec: KernelSpec, rows: int, lowering: Lowering, scope: Scope
) -> Schedule:
    """Write what the producer walks by, `first_tile` among it, into the block of `scope`.

    Args:
        rows: outer positions of a work.
    """
    if spec.closed_form is None:
        return _write_runs(axis, spec.skips, lowering, scope)
    if spec.closed_form.by_rows:
        _write_outer(spec.closed_form, rows, scope)
    found = write_segments(axis, spec.closed_form, lowering, scope)
    masked = found.masked
    block, count = scope.block, "0"
    spans: list[_Span] = []
    for segment in (*masked, *found.full):
        spans.append(_write_span(segment, count, lowering, block))
        count = spans[-1].end
    if found.stretches is not None:
        return _write_apart(axis, tuple(spans), len(masked), found.stretches, block)
    block.line(f"last_step = gl.maximum({count}, 1) - 1")
    block.line(f"first_tile = {_tile_at('0', tuple(spans))}")
    end_of_masked = spans[len(masked) - 1].end if masked and spec.mask is not None else ""
    after_first, after = _after("0", end_of_masked), _after("step", end_of_masked)
    return _Counted(axis, bool(end_of_masked), after_first, after, tuple(spans))


def _write_apart(
    axis: Axis, spans: tuple[_Span, ...], masked: int, stretches: Stretches, block: Block
) -> Schedule:
    """Write the first tile, and what comes after it: `apart`, the next tile that lies apart, and
    `step`, how many of the others there were.

    Args:
        masked: how many spans are of masked tiles.
    """
    is_apart = f"apart < {stretches.stop}"
    stretches.write_next(block, "apart", stretches.start)
    block.line(f"steps = {spans[-1].end if spans else '0'}")
    block.line(f"first_tile = gl.where({is_apart}, apart, {_tile_at('0', spans)})")
    block.line(f"step = gl.where({is_apart}, 0, 1)")
    stretches.write_next(block, "apart", "apart + 1")
    end_of_masked = spans[masked - 1].end if masked else "0"
    rest = f"gl.where(step < {end_of_masked}, {MASKED}, gl.where(step < steps, {FULL}, {NOTHING}))"
    after = f"gl.where({is_apart}, {MASKED}, {rest})"
    return _Apart(axis, True, after, after, spans, stretches)


def end_of_tiles(spec: KernelSpec, length: str) -> str:
    """The source of where a masked tile ends: at once if no pair is allowed anywhere."""
    form = spec.closed_form
    return "0" if form is not None and not form.intervals else length


def _after(step: str, end_of_masked: str) -> str:
    """The source of what comes after a step, by the step before which masked tiles end."""
    full = f"gl.where({step} < last_step, {FULL}, {NOTHING})"
    if not end_of_masked:
        return full
    following = "1" if step == "0" else f"{step} + 1"
    return f"gl.where({following} < {end_of_masked}, {MASKED}, {full})"


def _write_outer(form: ClosedForm, rows: int, scope: Scope) -> None:
    """Write the outer positions of the program, for bounds by rows.

    Their number is made a power of two. Those past the last one stand for the last one.
    """
    outer = "q" if form.inner == "kv" else "kv"
    count = 1 << (rows - 1).bit_length()
    name = scope.variables[outer] = f"{outer}_of_tile"
    positions = f"gl.arange(0, {count}, gl.BlockedLayout([1], [32], [1], [0]))"
    scope.block.line(f"{name} = gl.minimum({outer}_first + {positions}, {outer}_last)")


def _write_span(segment: Segment, count: str, lowering: Lowering, block: Block) -> _Span:
    start, stop = segment
    before = "" if count == "0" else f"{count} + "
    end = lowering.assign("count", f"{before}{stop} - {start}", block)
    return _Span(start, count, end)


def _write_runs(axis: Axis, skips: bool, lowering: Lowering, scope: Scope) -> Schedule:
    table = [lowering.argument(Role.TABLE, n) for n in ("offsets", "full_ends", "starts", "stops")]
    kinds = lowering.argument(Role.TABLE, "kinds") if skips else ""
    block = scope.block
    block.line(f"row_of_runs = {first_row(lowering)} + {axis.outer_tile}")
    block.line(f"first_run = gl.load({table[0]} + row_of_runs)")
    block.line(f"full_end = gl.load({table[1]} + row_of_runs)")
    block.line(f"last_run = gl.load({table[0]} + row_of_runs + 1)")
    _write_following(block, "first_run", "leading_run", "leading_kind", kinds)
    _write_following(block, "(first_run + 1)", "second_run", "second_kind", kinds)
    for name, ends in (("first_tile", table[2]), ("first_stop", table[3])):
        loaded = f"gl.load({ends} + leading_run, mask=first_run < last_run, other=0)"
        block.line(f"{name} = {loaded}")
    after_first = "gl.where(first_tile + 1 < first_stop, leading_kind, second_kind)"
    after = f"gl.where({axis.tile} + 1 < run_stop, kind, next_kind)"
    return _Runs(axis, True, after_first, after, kinds)
