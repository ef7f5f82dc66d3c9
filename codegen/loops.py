"""The loops over key tiles: from a plan's formulas or from its table of runs.

Full tiles and masked tiles have a loop each. With formulas there is one loop of each kind however
many intervals the mask has: it counts through the segments, so that its loads stay pipelined. Which
work is done in a tile is for the caller, who gets the block of each loop's body.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from flexdsl.analysis.closed_form import ClosedForm, Interval
from flexdsl.ir import Expr, Op

from .kernel import Role
from .lower import Lowering, Scope
from .writer import Block

NO_UPPER_BOUND = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Range:
    """The key tiles of one interval, as names in the kernel: live ones and, among them, full ones.

    `start == full_start` and `full_stop == stop` by name where the analysis knows them to be equal.
    """

    start: str
    full_start: str
    full_stop: str
    stop: str


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop over key tiles: `kv_tile` is set when `body` begins.

    Attributes:
        body: where its work goes.
        masked: the mask and the end of the keys are to be looked at.
    """

    body: Block
    masked: bool


def closed_form_loops(
    form: ClosedForm, lowering: Lowering, scope: Scope, block: Block, has_mask: bool
) -> Iterator[Loop]:
    """Write the loops of a plan in closed form into `block`, full tiles first."""
    bounds = scope.block
    ranges = _disjoint([_tile_range(i, n, lowering, scope) for n, i in _ordered(form)], bounds)
    full = [(r.full_start, r.full_stop) for r in ranges]
    masked = [
        segment
        for r in ranges
        for segment in ((r.start, r.full_start), (r.full_stop, r.stop))
        if segment[0] != segment[1]
    ]
    for segments, is_masked, title in (
        (full, False, "Full tiles: every pair is allowed."),
        (masked, True, "Masked tiles: the mask is looked at, and the end of the keys."),
    ):
        if segments:
            block.line()
            block.comment(title if has_mask or not is_masked else "The last tile, if it is cut.")
            yield from _counted_loop(segments, is_masked, lowering, block)


def _ordered(form: ClosedForm) -> Iterator[tuple[str, Interval]]:
    """The intervals with a suffix for their names; those that begin at key 0 first."""
    intervals = sorted(form.intervals, key=lambda i: not _is(i.live_lower, 0))
    for number, interval in enumerate(intervals):
        yield (f"_{number}" if len(intervals) > 1 else ""), interval


def _is(expr: Expr, value: int) -> bool:
    return expr.op is Op.CONST and expr.attribute == value


def _tile_range(interval: Interval, suffix: str, lowering: Lowering, scope: Scope) -> Range:
    """Write the tile range of one interval, from its bounds in keys."""
    block, fresh = scope.block, lowering.names.fresh
    roots = (interval.live_lower, interval.full_lower, interval.full_upper, interval.live_upper)
    low, full_low, full_high, high = lowering.lower(roots, scope, ["key"] * 4)

    def define(name: str, text: str) -> str:
        name = fresh(name + suffix)
        block.line(f"{name} = {text}")
        return name

    if _is(interval.live_upper, NO_UPPER_BOUND):
        stop_text = "tl.cdiv(kv_len, BLOCK_N)"
    else:
        stop_text = f"tl.cdiv(tl.minimum(tl.maximum({high}, 0), kv_len), BLOCK_N)"
    stop = define("stop", stop_text)
    if _is(interval.live_lower, 0):
        start = define("start", "0")
    else:
        start = define("start", f"tl.minimum(tl.maximum({low}, 0) // BLOCK_N, {stop})")
    if interval.full_lower is interval.live_lower and _is(interval.live_lower, 0):
        full_start = start
    else:
        text = f"tl.cdiv(tl.maximum({full_low}, 0), BLOCK_N)"
        full_start = define("full_start", f"tl.minimum(tl.maximum({text}, {start}), {stop})")
    if _is(interval.full_upper, NO_UPPER_BOUND):
        text = "kv_len // BLOCK_N"
    else:
        text = f"tl.minimum(tl.maximum({full_high}, 0), kv_len) // BLOCK_N"
    full_stop = define("full_stop", f"tl.minimum(tl.maximum({text}, {full_start}), {stop})")
    return Range(start, full_start, full_stop, stop)


def _disjoint(ranges: list[Range], block: Block) -> list[Range]:
    """Sort the ranges by their start and cut each where the one before it ends.

    A range that begins at tile 0 by its form stands first already.
    """
    if len(ranges) < 2:
        return ranges
    block.comment("Ranges in ascending order, none beginning before the one before it ends.")
    count = len(ranges)
    for end in range(count - 1, 0, -1):
        for i in range(end):
            _exchange(ranges[i], ranges[i + 1], block)
    for before, after in pairwise(ranges):
        for name in (after.start, after.full_start, after.full_stop, after.stop):
            block.line(f"{name} = tl.maximum({name}, {before.stop})")
    return ranges


def _exchange(a: Range, b: Range, block: Block) -> None:
    """Write a compare-exchange of two ranges by their start."""
    block.line(f"swap = {a.start} > {b.start}")
    for x, y in (
        (a.start, b.start),
        (a.full_start, b.full_start),
        (a.full_stop, b.full_stop),
        (a.stop, b.stop),
    ):
        block.line(f"{x}, {y} = tl.where(swap, {y}, {x}), tl.where(swap, {x}, {y})")


def _counted_loop(
    segments: list[tuple[str, str]], masked: bool, lowering: Lowering, block: Block
) -> Iterator[Loop]:
    """Write one loop that counts through `segments`, each [start, stop) of key tiles."""
    if len(segments) == 1:
        start, stop = segments[0]
        with block.indented(f"for kv_tile in tl.range({start}, {stop}):") as body:
            yield Loop(body, masked)
        return
    fresh = lowering.names.fresh
    kind = "masked" if masked else "full"
    ends: list[str] = []  # how many tiles the segments so far have, one name each
    for start, stop in segments:
        name = fresh(f"{kind}_count")
        block.line(f"{name} = {ends[-1] + ' + ' if ends else ''}{stop} - {start}")
        ends.append(name)
    step = fresh("step")
    with block.indented(f"for {step} in tl.range(0, {ends[-1]}):") as body:
        body.line(f"kv_tile = {step} + {_shift(segments, ends, step)}")
        yield Loop(body, masked)


def _shift(segments: list[tuple[str, str]], ends: list[str], step: str) -> str:
    """What to add to `step` to get the key tile, by the segment that it falls into."""
    shift = f"{segments[-1][0]} - {ends[-2]}"
    for i in range(len(segments) - 2, -1, -1):
        start = segments[i][0] if i == 0 else f"{segments[i][0]} - {ends[i - 1]}"
        shift = f"tl.where({step} < {ends[i]}, {start}, {shift})"
    return shift


def table_loops(lowering: Lowering, scope: Scope, block: Block) -> Iterator[Loop]:
    """Write the loops of a plan that is a table of runs into `block`, full tiles first."""
    table = {
        n: lowering.argument(Role.TABLE, n) for n in ("offsets", "full_ends", "starts", "stops")
    }
    strides = [lowering.argument(Role.TABLE_STRIDE, n, 0, f"table_stride_{n}") for n in "bh"]
    scope.block.line(f"row_of_runs = b * {strides[0]} + h * {strides[1]} + q_tile")
    scope.block.line(f"first_run = tl.load({table['offsets']} + row_of_runs)")
    scope.block.line(f"full_end = tl.load({table['full_ends']} + row_of_runs)")
    scope.block.line(f"last_run = tl.load({table['offsets']} + row_of_runs + 1)")
    for title, start, stop, masked in (
        ("Runs of full tiles: every pair is allowed.", "first_run", "full_end", False),
        ("Runs of masked tiles: the mask is looked at.", "full_end", "last_run", True),
    ):
        block.line()
        block.comment(title)
        with block.indented(f"for run in range({start}, {stop}):") as runs:
            runs.line(f"start = tl.load({table['starts']} + run)")
            runs.line(f"stop = tl.load({table['stops']} + run)")
            with runs.indented("for kv_tile in tl.range(start, stop):") as body:
                yield Loop(body, masked)
