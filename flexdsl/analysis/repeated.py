"""The table of a mask that repeats along the diagonal: allowed(q + P, kv + P) == allowed(q, kv).

Strided blocks, frames and windows over rows of a grid do. With a step of whole tiles every row of
tiles is one of the few of one step, moved sideways: only those are subdivided, over the keys of all
the rows. That it repeats is proven by form; a mask that does not, or lengths that cut a tile, are
for `subdivide.py` as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.affine import LinearForms, divisor_of
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.scene import Scene, chunks
from flexdsl.analysis.subdivide import map_tiles
from flexdsl.analysis.symmetry import are_equal
from flexdsl.analysis.table import RunTable, table_of_maps
from flexdsl.analysis.values import specialise, substitute
from flexdsl.ir import Capture, Expr, Op, Type, apply, const, load, var, walk

Array = NDArray[Any]
FEWEST_STEPS = 4  # of the rows of a grid: with fewer there is little to save
RUNS = 1 << 13  # moved at once


def repeated_table(scene: Scene) -> RunTable | None:
    """The runs of kv tiles of every q tile; None where the mask is not known to repeat."""
    grid = scene.grid
    height, width = grid.tile
    if grid.is_empty or grid.q_len % height or grid.kv_len % width:
        return None
    step = _step(scene)
    if step is None:
        return None
    rows, columns = step // height, step // width
    turns = -(-grid.q_tiles // rows)
    # One step of rows that lies behind all others, and every key that any of them has, moved there.
    keys = (grid.kv_tiles + turns * columns) * width
    far = Grid(step, keys, grid.tile, grid.q_offset + turns * step, grid.batch, grid.heads)
    last = replace(scene, grid=far)
    base = table_of_maps(map_tiles(last), last)
    group, i = np.divmod(np.arange(grid.batch * grid.heads * grid.q_tiles), grid.q_tiles)
    return _moved(base, group * rows + i % rows, (turns - i // rows) * columns, grid.kv_tiles)


def _step(scene: Scene) -> int | None:
    """Positions, whole tiles of both axes, by which the mask may be moved along the diagonal."""
    mask = specialise(scene.expr, scene.bindings)
    for node in walk(mask):
        reads_positions = node.op is Op.LOAD and not node.variables <= {"b", "h"}
        if reads_positions or (node.type is Type.FLOAT and node.args):
            return None
    here = _without_multiples(mask)
    for period in _periods(mask):
        step = math.lcm(period, *scene.grid.tile)
        if FEWEST_STEPS * step > scene.grid.q_len:
            return None
        on = {x: apply(Op.ADD, x, const(step)) for x in (var("q"), var("kv"))}
        if are_equal(here, _without_multiples(substitute(mask, on))):
            return step
    return None


def _periods(mask: Expr) -> list[int]:
    """What the period may be, by the constants that positions are divided by; shortest first."""
    nodes = list(walk(mask))
    divisors = [divisor_of(n) for n in nodes]
    remainders = [n.args[1].attribute for n in nodes if n.op is Op.MOD]
    known = {d for d in (*divisors, *remainders) if isinstance(d, int) and d > 0}
    least = math.lcm(1, *known)
    return sorted({least, math.prod(known), *(least * d for d in known)})


def _without_multiples(mask: Expr) -> Expr:
    """The same with (x + k * n) // n as x // n + k, and (x + k * n) % n as x % n."""
    forms = LinearForms()
    done: dict[Expr, Expr] = {}
    for node in walk(mask):
        args = tuple(done[a] for a in node.args)
        divisor = node.args[1].attribute if node.op is Op.MOD else divisor_of(node)
        if isinstance(divisor, int) and divisor > 0:
            form = forms.of(args[0])
            whole, rest = divmod(form.constant, divisor)
            inside = replace(form, constant=rest).to_expr()
            if node.op is Op.MOD:
                done[node] = apply(Op.MOD, inside, const(divisor))
            else:
                quotient = apply(Op.FLOORDIV, inside, const(divisor))
                done[node] = apply(Op.ADD, quotient, const(whole))
        elif args == node.args:
            done[node] = node
        elif isinstance(node.attribute, Capture):
            done[node] = load(node.attribute, *args)
        else:
            done[node] = apply(node.op, *args)
    return done[mask]


def _moved(base: RunTable, of: Array, back: Array, tiles: int) -> RunTable:
    """The table whose row r is row of[r] of `base`, back[r] tiles to the left, cut to the tiles."""
    most = max(1, int(np.diff(base.offsets).max(initial=1)))
    parts = list(_parts(base, of, back, tiles, max(1, RUNS // most)))
    counts, full_counts, starts, stops = (
        np.concatenate(arrays) for arrays in zip(*parts, strict=True)
    )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    full_ends = (offsets[:-1] + full_counts).astype(np.int32)
    return RunTable(offsets, full_ends, starts, stops)


def _parts(
    base: RunTable, of: Array, back: Array, tiles: int, size: int
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Of `size` rows each: counts of runs and of full ones, and starts and stops of the runs."""
    for part in chunks(len(of), size):
        table = base.chosen(of[part])
        row = table.row_of_runs()
        starts = np.maximum(table.starts - back[part][row], 0)
        stops = np.minimum(table.stops - back[part][row], tiles)
        kept = starts < stops
        counts, full_counts = (
            np.bincount(row[chosen], minlength=table.rows)
            for chosen in (kept, kept & table.full_runs())
        )
        yield counts, full_counts, starts[kept].astype(np.int32), stops[kept].astype(np.int32)
