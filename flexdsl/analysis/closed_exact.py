"""Is a closed form as exact as a table? What no proof shows is seen here, from its numbers.

Rows with bounds of their own may leave whole tiles between them, and a tile may be full in the
union of two intervals, but in none of them. Either is declined in `planning.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.anchors import slope_of_anchor
from flexdsl.analysis.closed_form import Interval
from flexdsl.analysis.closed_runs import TILES, Ends, Ranges, covered, joined
from flexdsl.analysis.grid import numbered
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.scene import chunks
from flexdsl.ir import Expr, Op, evaluate, walk

Array = NDArray[Any]
TOGETHER = 64  # outer tiles taken for one, where that tells enough
MOST_MASKED = 1 << 20  # tiles of a part that are looked at one by one


def leaves_gaps(ends: Ends) -> bool:
    """Is an inner tile between bounds by rows live in no row of its outer tile?"""
    return any(
        _has_gap(rows.of, *ends.live(rows.low[:, 0], rows.high[:, 0]), ends.inner_tile)
        for interval in ends.form.intervals
        if interval.by_rows and not _is_anchored(ends, interval)
        for rows in ends.rows_of((interval,), np.arange(ends.rows))
    )


def _is_anchored(ends: Ends, interval: Interval) -> bool:
    """Does no inner tile fit between the rows of an outer tile, whatever they load?"""
    slope = slope_of_anchor(interval, Prover(ends.outer, ends.grid, ends.bindings))
    rows = ends.grid.tile[0 if ends.outer == "q" else 1]
    return slope is not None and slope * (rows - 1) <= ends.inner_tile


def full_in_union_only(ends: Ends) -> bool:
    """May a tile be full in the union of the intervals, but in none of them?

    Such a tile is live in two of them, and covered at every outer position: at the first, the
    last, and wherever a condition changes. What no interval covers alone is then suspect.
    """
    several = len(ends.form.plain) > 1
    if several and any(_is_suspect(ends, tiles, full) for tiles, full in _near(ends)):
        return True
    return ends.form.sieved is not None and bool(ends.form.plain) and _is_full_by_sieve(ends)


def _near(ends: Ends) -> Iterator[tuple[Array, Ranges]]:
    """The outer tiles where a tile may be live in two intervals, full in none; their full ones.

    Bounds of tiles are those of any range of rows, so that most are left out many at a time.
    """
    count = 1 if any(interval.by_rows for interval in ends.form.intervals) else TOGETHER
    first = np.arange(0, ends.outer_tiles, count)
    found = (np.arange(ends.groups)[:, None] * ends.outer_tiles + first).reshape(-1)
    if count > 1:
        near = [tiles for tiles, _ in _of_those_near(ends, found, count)]
        within = np.concatenate([found[:0], *near])[:, None] + np.arange(count)
        same_group = within[:, :1] // ends.outer_tiles == within // ends.outer_tiles
        found = within[same_group]
    yield from _of_those_near(ends, found, 1)


def _of_those_near(ends: Ends, tiles: Array, count: int) -> Iterator[tuple[Array, Ranges]]:
    for part in chunks(len(tiles), TILES):
        live, full = ends.tiles(tiles[part], count)
        near = _any_share(live, full)
        if near.any():
            yield tiles[part][near], (full[0][near], full[1][near])


def _is_suspect(ends: Ends, tiles: Array, full: Ranges) -> bool:
    """Is, in one of these outer tiles, a tile covered by several intervals only?

    Args:
        full: what each interval covers alone.
    """
    b, h, first, last = ends.tile_rows(tiles)
    rows = np.stack([first, last, *_edges(ends, b, h, first, last)], axis=1)
    low, high = ends.of_rows(b[:, None], h[:, None], rows)
    covers = ends.contained(*joined(low, high))  # [tiles, rows, intervals]
    parts = [x.reshape(len(tiles), -1) for x in (*covers, *full)]
    edges = np.sort(np.concatenate(parts, axis=1), axis=1)
    starts, stops = edges[:, :-1], edges[:, 1:]
    suspect = (starts < stops) & ~covered(starts, *full)
    for row in range(rows.shape[1]):
        suspect &= covered(starts, covers[0][:, row], covers[1][:, row])
    return bool(suspect.any())


def _is_full_by_sieve(ends: Ends) -> bool:
    """May a tile be full in what a sieve lets through and others together, but in none alone?

    Tiles that the others leave too much of are put aside first, once for all batches and heads
    where the others are the same in them.
    """
    told_apart = any({"b", "h"} & e.variables for i in ends.form.plain for e in i.ends)
    rows = ends.rows if told_apart else ends.outer_tiles
    for part in chunks(rows, TILES):
        tiles = np.arange(part.start, part.stop)
        at, inner = _masked(*ends.tiles(tiles))
        if len(at) > MOST_MASKED:
            return True
        little = [_leave_little(ends, tiles[at[x]], inner[x]) for x in chunks(len(at), TILES)]
        near = np.flatnonzero(np.concatenate([np.zeros(0, np.bool_), *little]))
        for first in range(0, ends.rows if len(near) else 0, rows):
            if _is_suspect_by_sieve(ends, tiles[at][near] + first, inner[near]):
                return True
    return False


def _leave_little(ends: Ends, tiles: Array, inner: Array) -> Array:
    """Do the intervals without a sieve leave, in the first and the last row of each outer tile, no
    more of an inner tile than a sieve may let through? bool [n].
    """
    sieved = ends.form.sieved
    assert sieved is not None and sieved.sieve is not None
    period, width = sieved.sieve.period, sieved.sieve.width.attribute
    width = width if isinstance(width, int) else period
    whole, rest = divmod(ends.inner_tile, period)
    result = np.ones(len(tiles), np.bool_)
    b, h, *rows = ends.tile_rows(tiles)
    begin, end = ends.positions_of(inner)
    for row in rows:
        low, high = joined(*ends.of_rows(b, h, row))
        low, high = (np.clip(x, begin[:, None], end[:, None]) for x in (low, high))
        left = end - begin - np.maximum(high - low, 0).sum(axis=1)
        result &= left <= whole * width + min(rest, width)
    return result


def _is_suspect_by_sieve(ends: Ends, tiles: Array, inner: Array) -> bool:
    """Is one of these inner tiles of outer ones covered, but neither by a sieve nor by others?

    No tile is covered by several stretches, which lie apart.
    """
    begin, end = ends.positions_of(inner)
    for k in (2, 3):
        b, h, row = (ends.tile_rows(tiles)[n] for n in (0, 1, k))
        is_covered = ends.counts(b, h, row, (begin, end)) == end - begin
        tiles, inner, begin, end = (x[is_covered] for x in (tiles, inner, begin, end))
    if not len(tiles):
        return False
    start, stop = ends.tiles(tiles)[1]
    alone = ((start <= inner[:, None]) & (inner[:, None] < stop)).any(axis=1)
    alone |= ends.stretches(tiles).is_full(inner)
    return not bool(alone.all())


def _masked(live: Ranges, full: Ranges) -> tuple[Array, Array]:
    """Live tiles of each interval that are not full in it: outer tile by its place, and tile."""
    start, stop = live
    first = np.clip(full[0], start, stop)
    last = np.clip(full[1], first, stop)
    starts, stops = np.concatenate([start, last], axis=1), np.concatenate([first, stop], axis=1)
    of, within = numbered((stops - starts).reshape(-1))
    return of // starts.shape[1], starts.reshape(-1)[of] + within


def _edges(ends: Ends, b: Array, h: Array, first: Array, last: Array) -> Iterator[Array]:
    """Where conditions of the outer variable change, moved into each tile."""
    found: dict[Expr, None] = {}
    for node in walk(*(e for i in ends.form.intervals for e in (i.lower, i.upper))):
        if node.op in (Op.LT, Op.GE) and node.args[0].attribute == ends.outer:
            found[node.args[1]] = None
    for edge in found:
        if ends.outer not in edge.variables:
            at = evaluate(edge, {"b": b, "h": h}, ends.bindings.all)
            for position in (at - 1, at):
                yield np.clip(np.broadcast_to(position, first.shape), first, last)


def _any_share(live: Ranges, full: Ranges) -> Array:
    """Have two intervals of an outer tile a live tile in common that may be full in neither?

    Args:
        live, full: start and stop of ranges of tiles, [rows, intervals] each.

    Returns:
        bool [rows].
    """
    start, stop = live
    result = np.zeros(len(start), np.bool_)
    for m in range(start.shape[1]):
        for n in range(m):
            first = np.maximum(start[:, m], start[:, n])
            last = np.minimum(stop[:, m], stop[:, n])
            shared = first < last
            for k in (m, n):
                shared &= (first < full[0][:, k]) | (full[1][:, k] < last)
            result |= shared
    return result


def _has_gap(of: Array, low: Array, high: Array, tile: int) -> bool:
    """Do rows [low, high) of a tile, in any order, leave a whole inner tile between them?

    Args:
        of: the outer tile of each row, from 0 on; ascends.
    """
    # Most rows touch the next one, and then nothing is to be sorted.
    apart = (low[1:] > high[:-1]) | (low[:-1] > high[1:])
    unsure = np.zeros(int(of[-1]) + 1, np.bool_)
    unsure[of[1:][apart & (of[1:] == of[:-1])]] = True
    chosen = np.flatnonzero(unsure[of])
    # Counted on from tile to tile: what one of them reaches is below all of the next one.
    before = of[chosen] * (1 + max(int(low.max()), int(high.max())))
    low, high = low[chosen] + before, high[chosen] + before
    order = np.argsort(low, kind="stable")
    low, high, before = low[order], high[order], before[order]
    reached = np.maximum.accumulate(high)[:-1] - before[1:]
    following = low[1:] - before[1:]
    some = (high > before)[1:] & (before[1:] == before[:-1])  # empty rows come last
    return bool((some & (-(-reached // tile) < following // tile)).any())
