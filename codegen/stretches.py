"""Tiles that lie apart: those of an interval with a sieve, gone through without a table.

The next tile is computed from the one before it. Tiles that other intervals have are left out, so
that none is visited twice. The loops themselves are for `loops.py` and `hopper/schedule.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexdsl.analysis.closed_form import Interval
from flexdsl.ir.ops import SUM

from .lower import Lowering, Scope
from .writer import Block

# What the rows of a tile have of a stretch begins at `begin`, before the axis or at its first
# index, has `reach` positions, and comes again every PERIOD positions.
STRETCH_ENDS = '''\
@triton.jit
def stretch_ends(live_lower, live_upper, first, length, PERIOD):
    """Where positions count, [lower, upper), and where the last stretch up to index 0 begins."""
    lower = tl.minimum(tl.maximum(live_lower, 0), length).to(tl.int32)
    upper = tl.minimum(tl.maximum(live_upper, 0), length).to(tl.int32)
    rest = first % PERIOD
    return lower, upper, tl.where(rest > 0, rest - PERIOD, rest).to(tl.int32)
'''
TILE_FROM = '''\
@triton.jit
def tile_from(tile, lower, upper, begin, reach, PERIOD, BLOCK):
    """The first tile from `tile` on with a position of a stretch; if none, cdiv(upper, BLOCK)."""
    at = tl.maximum(tile * BLOCK, lower)
    rest = (at - begin) % PERIOD
    at += tl.where(rest < reach, 0, PERIOD - rest)
    return tl.where(at < upper, at // BLOCK, tl.cdiv(upper, BLOCK))
'''
CHUNK = 1024  # tiles looked at together to be counted


@dataclass(frozen=True, slots=True)
class Stretches:
    """The tiles of such an interval: names in the kernel.

    Attributes:
        arguments: of `tile_from` after the tile.
        start, stop: sources of the earliest that its first tile is, and of what none reaches.
        others: start and stop of ranges of tiles that are visited otherwise, ascending.
        language: "tl" or "gl".
    """

    arguments: str
    start: str
    stop: str
    others: Sequence[tuple[str, str]]
    language: str

    def write_next(self, block: Block, name: str, tile: str) -> None:
        """Write the first of its tiles from `tile` on, `stop` where there is none."""
        block.line(f"{name} = {self._from(tile)}")
        for start, stop in self.others:
            passed = f"({name} >= {start}) & ({name} < {stop})"
            block.line(f"{name} = {self.language}.where({passed}, {self._from(stop)}, {name})")

    def write_count(self, block: Block, lowering: Lowering) -> str:
        """Write how many tiles it has, and give the name."""
        count, first, tiles, live = (
            lowering.names.fresh(f"stretch_{n}") for n in ("count", "chunk", "tiles", "live")
        )
        block.line(f"{count} = 0")
        with block.indented(f"for {first} in range({self.start}, {self.stop}, {CHUNK}):") as body:
            body.line(f"{tiles} = {first} + tl.arange(0, {CHUNK})")
            body.line(f"{live} = {self.has(tiles)}")
            for start, stop in self.others:
                body.line(f"{live} = {live} & (({tiles} < {start}) | ({tiles} >= {stop}))")
            body.line(f"{count} += tl.sum({live}.to(tl.int32), 0)")
        return count

    def has(self, tile: str) -> str:
        """The source of the bool that a tile, or each of several, has a position of a stretch."""
        return f"({self._from(tile)} == {tile}) & ({tile} < {self.stop})"

    def _from(self, tile: str) -> str:
        return f"tile_from({tile}, {self.arguments})"


def write_stretches(
    interval: Interval,
    outer: str,
    axis: tuple[str, str, str],
    others: Sequence[tuple[str, str]],
    lowering: Lowering,
    scope: Scope,
) -> Stretches:
    """Write where the stretches of an interval lie for an outer tile.

    Args:
        outer: "q" or "kv".
        axis: length of the inner one, length of its tiles, and what to subtract from a position.
        others: ranges of tiles that are visited otherwise.
    """
    sieve, (length, block, first) = interval.sieve, axis
    assert sieve is not None
    roots = interval.live_lower, interval.live_upper, sieve.first(outer), sieve.reach(outer)
    *ends, reached = lowering.lower(roots, scope, least=SUM if first else 0)
    lowering.helpers |= {"stretch_ends", "tile_from"}
    wanted = ("lower", "upper", "begin", "reach", "stop")
    lower, upper, begin, reach, stop = (lowering.names.fresh(f"stretch_{n}") for n in wanted)
    given = ", ".join(f"{end}{first}" for end in ends)
    call = f"stretch_ends({given}, {length}, {sieve.period})"
    scope.block.line(f"{lower}, {upper}, {begin} = {call}")
    scope.block.line(f"{reach} = {reached}")
    scope.block.line(f"{stop} = {lowering.language}.cdiv({upper}, {block})")
    arguments = f"{lower}, {upper}, {begin}, {reach}, {sieve.period}, {block}"
    return Stretches(arguments, f"{lower} // {block}", stop, others, lowering.language)
