"""The table of a mask of few periods, as of frames of a video: a closed form in each pair of them.

With q as i * T + x and kv as j * T + y, places that are near each other at all times are one band
of x - y, whatever i and j are. The mask of x and y is solved once for each kind of pairs (i, j),
and its bounds hold for any rows of a period: so tiles are put together of the pieces that periods
cut them into. No pair is evaluated. A mask that knows a position otherwise than by its period and
its place there, or that has several intervals in one pair, is for others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.affine import LinearForms, divisor_of
from flexdsl.analysis.closed_form import ClosedForm, Declined
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.groups import like_groups, parts_of_groups
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.scene import Scene, chunks
from flexdsl.analysis.strided import derive_form
from flexdsl.analysis.table import Runs, RunTable, merged, of_all_groups, table_of_runs
from flexdsl.analysis.values import Bindings, specialise, substitute
from flexdsl.ir import Expr, Op, Type, apply, const, evaluate, evaluate_all, var, walk

Array = NDArray[Any]
MOST_CELLS = 1 << 17  # of rows of tiles and periods of kv: with more of them periods are short
MOST_KINDS = 16  # of pairs of periods, each of which is solved
CELLS = 1 << 11  # treated together


@dataclass(frozen=True, slots=True)
class _Fold:
    """Position p of an axis is at place (p + phase) % period of period (p + phase) // period."""

    axis: str
    period: int
    phase: int

    def periods(self, grid: Grid) -> range:
        """The numbers of the periods that the axis has."""
        first, length = (grid.q_offset, grid.q_len) if self.axis == "q" else (0, grid.kv_len)
        last = first + length - 1
        return range(*((end + self.phase) // self.period for end in (first, last + self.period)))


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The rows of q tiles, cut where periods end: the tile, the number of its period among all, and
    the first and the last place there of each piece, in order: int64 [n].
    """

    tile: Array
    period: Array
    first: Array
    last: Array


def folded_table(scene: Scene) -> RunTable | None:
    """The runs of kv tiles of every q tile; None where no closed form holds in pairs of periods."""
    grid, mask = scene.grid, specialise(scene.expr, scene.bindings)
    of_q, of_kv = _fold(mask, "q"), _fold(mask, "kv")
    if of_q is None or of_kv is None or grid.is_empty:
        return None
    pieces, columns = _pieces(grid, of_q), of_kv.periods(grid)
    if len(pieces.tile) * len(columns) > MOST_CELLS:
        return None
    runs = list[Runs]()
    for group in np.unique(scene.like_groups):
        b, h = (const(int(x)) for x in divmod(int(group), grid.heads))
        of_group = substitute(mask, {var("b"): b, var("h"): h})
        solved = _solved(_folded(of_group, of_q, of_kv, grid), of_q, of_kv, scene, pieces)
        if solved is None:
            return None
        runs += _runs(*solved, pieces, of_kv, grid, int(group) * grid.q_tiles)
    return of_all_groups(table_of_runs(len(scene.like_groups) * grid.q_tiles, runs), scene)


def _fold(mask: Expr, axis: str) -> _Fold | None:
    """How a mask knows the positions of an axis; None if not by one period alone."""
    found = set[_Fold | None]()
    stack, seen = [mask], set[Expr]()
    while stack:
        node = stack.pop()
        if axis in node.variables and node not in seen:
            seen.add(node)
            fold = _fold_at(node, axis)
            if fold is not None or node is var(axis):
                found.add(fold)
            else:
                stack.extend(node.args)
    return found.pop() if len(found) == 1 else None


def _fold_at(node: Expr, axis: str) -> _Fold | None:
    """The fold where a node is a place in a period or the number of one."""
    divisor = node.args[1].attribute if node.op is Op.MOD else divisor_of(node)
    if isinstance(divisor, int) and divisor > 1:
        form = LinearForms().of(node.args[0])
        if form.terms == ((var(axis), 1),):
            return _Fold(axis, divisor, form.constant)
    return None


def _folded(mask: Expr, of_q: _Fold, of_kv: _Fold, grid: Grid) -> Expr:
    """The mask of places "q" and "kv" in the periods with the numbers "b" and "h" among all."""
    new: dict[Expr, Expr] = {}
    for node in walk(mask):
        for fold, number in ((of_q, "b"), (of_kv, "h")):
            if _fold_at(node, fold.axis) == fold:
                period = apply(Op.ADD, var(number), const(fold.periods(grid).start))
                new[node] = var(fold.axis) if node.op is Op.MOD else period
    return substitute(mask, new)


def _pieces(grid: Grid, fold: _Fold) -> _Pieces:
    height, periods = grid.tile[0], fold.periods(grid)
    # Positions counted from the start of the first period.
    shift = grid.q_offset + fold.phase - periods.start * fold.period
    starts = np.union1d(
        np.arange(0, grid.q_len, height) + shift,
        np.maximum(np.arange(len(periods)) * fold.period, shift),
    )
    stops = np.append(starts[1:], grid.q_len + shift)
    period, first = np.divmod(starts, fold.period)
    return _Pieces((starts - shift) // height, period, first, first + stops - starts - 1)


def _solved(
    mask: Expr, of_q: _Fold, of_kv: _Fold, scene: Scene, pieces: _Pieces
) -> tuple[Array, Array] | None:
    """The bounds of pieces in a period of kv, by the kind of the pair: int64 [kinds, pieces, 4];
    and the kinds, [periods of q, periods of kv].

    None where a kind has no closed form, or one that tells less.
    """
    counts = len(of_q.periods(scene.grid)), len(of_kv.periods(scene.grid))
    unit = Grid(of_q.period, of_kv.period, scene.grid.tile, 0, *counts)
    kinds, kind = np.unique(like_groups(mask, scene.bindings, unit), return_inverse=True)
    if len(kinds) > MOST_KINDS:
        return None
    ends = list[Array]()
    for example in kinds:
        place = dict(zip("bh", np.divmod(example, counts[1]), strict=True))
        bounds = _bounds(_at(mask, place, scene.bindings), unit, scene.bindings, pieces)
        if bounds is None:
            return None
        ends.append(np.clip(bounds, 0, of_kv.period))
    return np.stack(ends), kind.reshape(counts)


def _at(mask: Expr, place: dict[str, Any], bindings: Bindings) -> Expr:
    """The mask in one pair of periods, all that is known of it there as numbers."""
    new: dict[Expr, Expr] = {}
    for part in parts_of_groups(mask):
        value = evaluate(part, place, bindings.all)
        plain = {Type.BOOL: bool, Type.INDEX: int}.get(part.type, float)
        new[part] = const(plain(value))
    return substitute(mask, new)


def _bounds(mask: Expr, unit: Grid, bindings: Bindings, pieces: _Pieces) -> Array | None:
    """Live lower and upper ends of every piece, and full ones: [pieces, 4]; None as above."""
    try:
        form = derive_form(mask, "kv", Prover("q", unit, bindings))
    except Declined:
        return None
    if not _is_plain(form):
        return None
    bounds = np.zeros((len(pieces.tile), 4), np.int64)
    for interval in form.intervals:
        ends = interval.live_lower, interval.live_upper, interval.full_lower, interval.full_upper
        rows = {"q_first": pieces.first, "q_last": pieces.last}
        for k, end in enumerate(evaluate_all(ends, rows, bindings.all)):
            bounds[:, k] = end
    return bounds


def _is_plain(form: ClosedForm) -> bool:
    """Is it one interval at most, whose bounds are those of any rows?"""
    return len(form.intervals) < 2 and all(
        not interval.by_rows and interval.sieve is None for interval in form.intervals
    )


def _runs(
    ends: Array, kind: Array, pieces: _Pieces, fold: _Fold, grid: Grid, first_row: int
) -> Iterator[Runs]:
    """The runs of all rows of tiles of one batch and head, some rows at a time."""
    periods = fold.periods(grid)
    starts = np.arange(periods.start, periods.stop) * fold.period - fold.phase
    of_tiles = np.searchsorted(pieces.tile, np.arange(grid.q_tiles + 1))
    for tiles in chunks(grid.q_tiles, max(1, CELLS // len(starts))):
        part = np.arange(of_tiles[tiles.start], of_tiles[tiles.stop])
        bounds = ends[kind[pieces.period[part]], part[:, None]] + starts[:, None]
        row, start, stop, full = _runs_of(
            np.clip(bounds, 0, grid.kv_len), pieces.tile[part] - tiles.start, grid
        )
        yield merged(row + first_row + tiles.start, start, stop, full)


def _runs_of(bounds: Array, tile: Array, grid: Grid) -> Runs:
    """The runs of some rows of tiles from the bounds of their pieces: [pieces, periods, 4].

    A tile is live if one of its pieces is, and full if all of them are.

    Args:
        tile: the row of tiles that each piece is of, from 0 on.
    """
    width, line = grid.tile[1], grid.kv_tiles + 1
    piece, low, high = _some(bounds[..., 0], bounds[..., 1])
    live = tile[piece] * line + low // width, tile[piece] * line - (-high // width)
    piece, low, high = _joined(*_some(bounds[..., 2], bounds[..., 3]))
    stop = np.where(high == grid.kv_len, grid.kv_tiles, high // width)
    whole = -(-low // width) < stop
    first = (tile[piece] * line)[whole]
    full = first - (-low[whole] // width), first + stop[whole]
    at = np.concatenate([*live, *full])
    order = np.argsort(at, kind="stable")
    at = at[order]
    counts = [len(live[0]), len(live[0]), len(full[0]), len(full[0])]
    of_live, of_full = (
        np.cumsum(np.repeat(x, counts)[order]) for x in ([1, -1, 0, 0], [0, 0, 1, -1])
    )
    some = np.flatnonzero((of_live[:-1] > 0) & (at[:-1] < at[1:]))
    row, start = np.divmod(at[some], line)
    return row, start, start + at[some + 1] - at[some], of_full[some] == np.bincount(tile)[row]


def _some(low: Array, high: Array) -> tuple[Array, Array, Array]:
    """The ranges of keys that are not empty: the piece, and both ends."""
    some = np.nonzero(low < high)
    return some[0], low[some], high[some]


def _joined(piece: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """The same with ranges of one piece that touch made one."""
    opens = np.ones(len(piece), np.bool_)
    opens[1:] = (piece[1:] != piece[:-1]) | (low[1:] != high[:-1])
    closes = np.append(opens[1:], True)[: len(piece)]
    return piece[opens], low[opens], high[closes]
