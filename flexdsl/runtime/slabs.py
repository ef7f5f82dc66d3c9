"""How the CPU executor cuts a plan into slabs: dense blocks of scores that fit the cache.

A slab is some rows of one tile, for some heads, against all their live keys, gathered in runs as
long as possible. Forward and backward walk the same slabs. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flexdsl.analysis.chosen_blocks import chosen_blocks
from flexdsl.ir import Program

if TYPE_CHECKING:
    from flexdsl.analysis import BlockPlan

# Rows and keys of a tile of the executor's own plans. Measured: fewer rows make the matrix products
# slower, more make a narrow window compute pairs that it excludes.
TILE = (128, 128)

# Such blocks that captured numbers choose are tiles. With a fifth of those of 64, at random, a
# call took 78 ms and not 277, its backward pass 413 and not 740 (an AMD EPYC, two threads, 4096
# tokens, 8 heads, D 64, float32, torch 2.13.0, 2026-11-27).
LEAST_BLOCK = 64

# Scores of a slab: 4 MiB in float32, which stays in a shared cache between the passes over it.
SLAB_SCORES = 1024 * 1024
LEAST_ROWS = 16


def tile_for(mask: Program | None, q_offset: int) -> tuple[int, int]:
    """Rows and keys of a tile of the executor's own plan of a mask."""
    found = None if mask is None else chosen_blocks(mask.expr, TILE[0])
    if found is None or min(found) < LEAST_BLOCK or q_offset % found[0]:
        return TILE
    return found


@dataclass(frozen=True, slots=True)
class Plane:
    """Heads for which the plan has the same runs.

    Attributes:
        heads: of the flattened axis b * Hkv + (key head).
        groups: of the query heads that share a key head.
        b, h: a batch and a query head to ask the plan for.
    """

    heads: slice
    groups: slice
    b: int
    h: int


@dataclass(frozen=True, slots=True)
class Keys:
    """The live keys of a tile.

    Attributes:
        segments: ascending, disjoint, never adjacent ranges of keys.
        partial: ranges of columns, counted over the concatenated segments, in partial tiles.
        count: number of keys, and so of columns.
    """

    segments: tuple[slice, ...]
    partial: tuple[slice, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Slab:
    """Rows `rows` of the query heads (`heads`, `groups`) against `keys`."""

    heads: slice
    groups: slice
    rows: slice
    keys: Keys


def slabs(plan: BlockPlan, batch: int, kv_heads: int, group: int) -> Iterator[Slab]:
    """Every slab of `plan`: together they have each query row of each head once.

    Args:
        batch, kv_heads: their product is the length of the flattened axis of heads.
        group: query heads that share a key head.
    """
    if batch * kv_heads * group == 0:
        return
    for plane in _planes(plan, batch, kv_heads, group):
        heads = range(batch * kv_heads)[plane.heads]
        groups = len(range(group)[plane.groups])
        for tile in range(plan.q_tiles):
            keys = live_keys(plan, plane.b, plane.h, tile)
            first = tile * plan.tile_shape[0]
            last = min(first + plan.tile_shape[0], plan.q_len)
            width = groups * max(1, keys.count)
            rows = min(last - first, max(LEAST_ROWS, SLAB_SCORES // width))
            taken = max(1, SLAB_SCORES // (width * rows))
            for i in range(0, len(heads), taken):
                part = heads[i : i + taken]
                for row in range(first, last, rows):
                    yield Slab(
                        slice(part.start, part.stop, part.step),
                        plane.groups,
                        slice(row, min(row + rows, last)),
                        keys,
                    )


def shares(todo: Sequence[Slab], count: int, parts: int) -> list[list[Slab]]:
    """The slabs of at most `parts` ranges of the `count` flattened heads, cut at their borders.

    No two lists have a key head in common, so that each can add to its gradients alone.
    """
    width = max(1, -(-count // parts))
    cuts = [(first, first + width) for first in range(0, count, width)]
    return [[s for slab in todo for s in _within(slab, *cut)] for cut in cuts]


def _within(slab: Slab, first: int, last: int) -> list[Slab]:
    """The part of a slab whose heads are in [first, last): one slab or none."""
    step = slab.heads.step or 1
    kept = [n for n in range(slab.heads.start, slab.heads.stop, step) if first <= n < last]
    return [replace(slab, heads=slice(kept[0], kept[-1] + 1, step))] if kept else []


def live_keys(plan: BlockPlan, b: int, h: int, tile: int) -> Keys:
    """The keys that rows of `tile` can see, and which columns need the mask."""
    width, length = plan.tile_shape[1], plan.kv_len
    segments: list[slice] = []
    partial: list[slice] = []
    count = 0
    for run in plan.runs(b, h, tile):
        start, stop = run.start * width, min(run.stop * width, length)
        _append(segments, start, stop)
        if not run.full:
            _append(partial, count, count + stop - start)
        count += stop - start
    return Keys(tuple(segments), tuple(partial), count)


def _append(ranges: list[slice], start: int, stop: int) -> None:
    """Add a range, joined to the last one where they touch."""
    if ranges and ranges[-1].stop == start:
        start = ranges.pop().start
    ranges.append(slice(start, stop))


def _planes(plan: BlockPlan, batch: int, kv_heads: int, group: int) -> Iterator[Plane]:
    everything, count = slice(0, group), batch * kv_heads
    if not (plan.depends_on_batch or plan.depends_on_head):
        yield Plane(slice(0, count), everything, 0, 0)
    elif not plan.depends_on_head:
        for b in range(batch):
            yield Plane(slice(b * kv_heads, (b + 1) * kv_heads), everything, b, 0)
    else:
        for h in range(kv_heads * group):
            one, kv_head = slice(h % group, h % group + 1), h // group
            if not plan.depends_on_batch:
                yield Plane(slice(kv_head, count, kv_heads), one, 0, h)
                continue
            for b in range(batch):
                n = b * kv_heads + kv_head
                yield Plane(slice(n, n + 1), one, b, h)
