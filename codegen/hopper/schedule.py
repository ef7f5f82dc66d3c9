"""The order in which a program of a Hopper kernel goes through its tiles.

The producer and the consumers walk the same tiles, each with a count of its own, `step`, from which
both know a tile's place in shared memory. Masked tiles come first, then full ones: step 0 stands
before the loops and is always treated as masked, so that the loops begin with a softmax under way.
A program without any tile takes one whose pairs are all masked away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..kernel import KernelSpec, Role
from ..loops import Axis, Loop, Segment, write_segments
from ..lower import Lowering, Scope
from ..writer import Block


@dataclass(frozen=True)
class Schedule:
    """What the kernel computed once, for both partitions to walk by.

    Attributes:
        handed: names of the scalars and pointers that a partition needs.
        axis: along which the tiles lie.
        last_step: source of the number of the last step, after the loops.
    """

    handed: tuple[str, ...]
    axis: Axis
    last_step: str

    def loops(self, block: Block) -> Iterator[Loop]:
        """Write the loops over all steps but the first, each with `step` and the tile's number."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Counted(Schedule):
    """From formulas: the segments one after the other, counted through."""

    masked: tuple[_Span, ...]
    full: tuple[_Span, ...]

    def loops(self, block: Block) -> Iterator[Loop]:
        tile, done = self.axis.tile, "1"
        for spans, is_masked in ((self.masked, True), (self.full, False)):
            if not spans:
                continue
            begin = "1" if done == "1" else f"gl.maximum({done}, 1)"
            done = spans[-1].end
            with block.indented(f"for step in range({begin}, {done}):") as body:
                body.line(f"{tile} = {_tile_at('step', spans)}")
                yield Loop(body, is_masked)


@dataclass(frozen=True, slots=True)
class _Span:
    """A segment and its place in the order: its first tile, its first step, the step after it."""

    start: str
    begin: str
    end: str


def _tile_at(step: str, spans: tuple[_Span, ...]) -> str:
    """The tile of a step within `spans`."""
    shifts = [s.start if s.begin == "0" else f"{s.start} - {s.begin}" for s in spans]
    chosen = shifts[-1]
    for span, shift in zip(spans[-2::-1], shifts[-2::-1], strict=True):
        chosen = f"gl.where({step} < {span.end}, {shift}, {chosen})"
    return f"{step} + {chosen}"


@dataclass(frozen=True)
class _Runs(Schedule):
    """From a table: its masked runs, then its full runs."""

    def loops(self, block: Block) -> Iterator[Loop]:
        block.line("step = 0")
        for start, stop, is_masked in (
            ("full_end", "last_run", True),
            ("first_run", "full_end", False),
        ):
            with block.indented(f"for run in range({start}, {stop}):") as runs:
                runs.line("run_start = gl.load(starts + run) + (run == head_run).to(gl.int32)")
                header = f"for {self.axis.tile} in range(run_start, gl.load(stops + run)):"
                with runs.indented(header) as body:
                    body.line("step += 1")
                    yield Loop(body, is_masked)


def write_schedule(axis: Axis, spec: KernelSpec, lowering: Lowering, scope: Scope) -> Schedule:
    """Write what the partitions walk by, `first_tile` among it, into the block of `scope`."""
    if spec.closed_form is None:
        return _write_runs(axis, lowering, scope)
    masked, full = write_segments(axis, spec.closed_form, lowering, scope)
    block, count = scope.block, "0"
    spans: list[_Span] = []
    for segment in (*masked, *full):
        spans.append(_write_span(segment, count, lowering, block))
        count = spans[-1].end
    block.line(f"last_step = gl.maximum({count}, 1) - 1")
    first = _tile_at("0", tuple(spans)).removeprefix("0 + ") if spans else "0"
    block.line(f"first_tile = {first}")
    names = dict.fromkeys(n for s in spans for n in (s.start, s.begin, s.end) if n != "0")
    handed = (*names, "first_tile", "last_step")
    return _Counted(
        handed, axis, "last_step", tuple(spans[: len(masked)]), tuple(spans[len(masked) :])
    )


def _write_span(segment: Segment, count: str, lowering: Lowering, block: Block) -> _Span:
    start, stop = segment
    end = lowering.names.fresh("count")
    block.line(f"{end} = {'' if count == '0' else f'{count} + '}{stop} - {start}")
    return _Span(start, count, end)


def _write_runs(axis: Axis, lowering: Lowering, scope: Scope) -> Schedule:
    table = [lowering.argument(Role.TABLE, n) for n in ("offsets", "full_ends", "starts", "stops")]
    strides = [lowering.argument(Role.TABLE_STRIDE, n, 0, f"table_stride_{n}") for n in "bh"]
    block = scope.block
    block.line(f"row_of_runs = b * {strides[0]} + h * {strides[1]} + {axis.outer_tile}")
    block.line(f"first_run = gl.load({table[0]} + row_of_runs)")
    block.line(f"full_end = gl.load({table[1]} + row_of_runs)")
    block.line(f"last_run = gl.load({table[0]} + row_of_runs + 1)")
    block.line("head_run = gl.where(full_end < last_run, full_end, first_run)")
    block.line(f"first_tile = gl.load({table[2]} + head_run, mask=first_run < last_run, other=0)")
    handed = ("first_run", "full_end", "last_run", "head_run", "first_tile", *table[2:])
    return _Runs(handed, axis, "step")
