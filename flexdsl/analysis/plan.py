"""The block plan: which tiles of the attention matrix a mask needs, by proof.

`make_plan` chooses the way (closed form, then table) and checks what it is given; `BlockPlan`
answers questions about the result, each computed when first asked. Neither runs a kernel, and
neither allocates anything of the size of the matrix or of its tile grid, except `to_dense`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.bounds import check_loads
from flexdsl.analysis.closed_form import ClosedForm, Declined
from flexdsl.analysis.closed_runs import Ends
from flexdsl.analysis.draw import draw, plot
from flexdsl.analysis.explain import explain
from flexdsl.analysis.facts import count_pairs, has_empty_row
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.overlay import absorb
from flexdsl.analysis.prove import Prover
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.subdivide import TileMap, map_tiles
from flexdsl.analysis.table import RunTable, table_of_map
from flexdsl.analysis.tile_bounds import derive
from flexdsl.analysis.values import bind
from flexdsl.errors import ArgumentError, KindError
from flexdsl.ir import Kind, Op, Program, const, walk

Array = NDArray[Any]
Outer = Literal["q", "kv"]
LONGEST = 2**31 - 2  # positions are int32 in kernels


@dataclass(frozen=True, slots=True)
class Run:
    """Inner tiles [start, stop) of one outer tile; `full`: every pair in range is allowed."""

    start: int
    stop: int
    full: bool


def make_plan(
    mask: Program | None,
    q_len: int,
    kv_len: int,
    *,
    batch: int = 1,
    heads: int = 1,
    tile: tuple[int, int] = (128, 128),
    q_offset: int = 0,
) -> BlockPlan:
    """The block plan of a mask.

    Args:
        mask: a mask program with its values; None allows every pair.
        q_len, kv_len: rows and columns of the attention matrix, 0 or more.
        batch, heads: sizes of the axes b and h (query heads).
        tile: rows and columns of a tile.
        q_offset: position of query row 0.

    Raises:
        ArgumentError: a length, tile or offset is not a number that makes sense.
        KindError: `mask` is a score modification.
        CaptureError, IndexRangeError: a captured tensor is missing, or is read outside its range.
    """
    sizes = {"q_len": q_len, "kv_len": kv_len, "batch": batch, "heads": heads}
    _check_sizes(sizes, tile, q_offset)
    _check_kind(mask)
    expr = const(True) if mask is None else mask.expr
    bindings = bind({} if mask is None else mask.values, expr)
    if mask is not None:
        axes = (q_len, kv_len, batch, heads, q_offset)
        check_loads(expr, None, *axes, mask.values, mask.spans)
    depends = ("b" in expr.variables, "h" in expr.variables)
    distinct_b = batch if depends[0] else min(batch, 1)
    distinct_h = heads if depends[1] else min(heads, 1)
    grid = Grid(q_len, kv_len, tile, q_offset, distinct_b, distinct_h)
    scene = Scene(expr, bindings, grid)
    return _plan_of(mask, batch, heads, depends, scene, "q")


def _plan_of(
    mask: Program | None,
    batch: int,
    heads: int,
    depends: tuple[bool, bool],
    scene: Scene,
    outer: Outer,
    tiles: TileMap | None = None,
) -> BlockPlan:
    """A closed form where one is exact, else a table."""
    grid = scene.grid
    form = _closed_form(scene, outer)
    ends = table = None
    if isinstance(form, ClosedForm):
        ends = Ends(form, grid, scene.bindings)
    else:
        tiles = tiles or map_tiles(scene)
        count = grid.q_tiles if outer == "q" else grid.kv_tiles
        table = table_of_map(tiles, grid.batch, grid.heads, count, outer == "kv")
    return BlockPlan(
        mask=mask,
        q_len=grid.q_len,
        kv_len=grid.kv_len,
        batch=batch,
        heads=heads,
        tile_shape=grid.tile,
        q_offset=grid.q_offset,
        depends_on_batch=depends[0],
        depends_on_head=depends[1],
        closed_form=form if isinstance(form, ClosedForm) else None,
        table=table,
        why_table=form if isinstance(form, Declined) else None,
        outer=outer,
        _scene=scene,
        _ends=ends,
        _tiles=tiles,
    )


def _closed_form(scene: Scene, outer: Outer) -> ClosedForm | Declined:
    """The closed form for runs along the other axis, or why there is none."""
    inner = "kv" if outer == "q" else "q"
    if scene.grid.is_empty:
        return ClosedForm(inner, ())
    prover = Prover(outer, scene.grid, scene.bindings)
    try:
        form = derive(scene.expr, inner, prover)
    except Declined as declined:
        # The plan keeps the reason, not the frames that it was raised in.
        return declined.with_traceback(None)
    ends = Ends(form, scene.grid, scene.bindings)
    if ends.leaves_gaps():
        return Declined(f"the {inner} of neighbouring {outer} are too far apart", scene.expr)
    if not ends.full_in_union_only():
        return form
    form = absorb(form, prover)
    if not Ends(form, scene.grid, scene.bindings).full_in_union_only():
        return form
    return Declined("a tile may be full in the union of two intervals only", scene.expr)


def _check_kind(mask: Program | None) -> None:
    if mask is not None and mask.kind is not Kind.MASK:
        raise KindError(
            f"{mask.name} is a score modification, and a plan is made of a mask",
            fix="pass a mask mod, which returns a bool",
        )


def _check_sizes(sizes: dict[str, int], tile: tuple[int, int], q_offset: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ArgumentError(f"{name} is {size!r}", fix="a whole number, 0 or more")
    if len(tile) != 2 or any(isinstance(t, bool) or not isinstance(t, int) or t < 1 for t in tile):
        raise ArgumentError(f"tile is {tile!r}", fix="two positive whole numbers: (128, 128)")
    if isinstance(q_offset, bool) or not isinstance(q_offset, int) or q_offset < 0:
        raise ArgumentError(
            f"q_offset is {q_offset!r}",
            why="it is the position of the first query row, and positions start at 0",
            fix="a whole number, 0 or more",
        )
    if max(sizes["q_len"] + q_offset, sizes["kv_len"]) > LONGEST:
        raise ArgumentError(
            f"a sequence ends at position {max(sizes['q_len'] + q_offset, sizes['kv_len'])}",
            why="positions are 32-bit integers in kernels",
            fix=f"lengths of at most {LONGEST}",
        )


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """Which tiles of the attention matrix are empty, partial or full.

    Tile (i, j) holds query rows [i * BM, (i + 1) * BM) and key columns [j * BN, (j + 1) * BN), both
    cut at the lengths; pairs outside do not count. Query row r has position q_offset + r.

    Attributes:
        mask: the program, or None where every pair is allowed.
        tile_shape: (BM, BN).
        depends_on_batch, depends_on_head: where False, all b (or h) have the same runs.
        closed_form: the ends of the runs as expressions, where the plan is a closed form.
        table: the runs, where the plan is a table.
        why_table: why there is no exact closed form.
        outer: "q": runs are of kv tiles for each q tile; "kv" in a transposed plan.
    """

    mask: Program | None
    q_len: int
    kv_len: int
    batch: int
    heads: int
    tile_shape: tuple[int, int]
    q_offset: int
    depends_on_batch: bool
    depends_on_head: bool
    closed_form: ClosedForm | None
    table: RunTable | None
    why_table: Declined | None
    outer: Outer
    _scene: Scene
    _ends: Ends | None
    _tiles: TileMap | None

    @property
    def kind(self) -> Literal["closed-form", "table"]:
        """How the runs are known: computed by the kernel, or read from a table."""
        return "table" if self.closed_form is None else "closed-form"

    @property
    def by_rows(self) -> bool:
        """Are bounds of tiles computed from those of their rows, as with captured ends?"""
        form = self.closed_form
        return form is not None and any(interval.by_rows for interval in form.intervals)

    @cached_property
    def tabulated(self) -> BlockPlan:
        """The same plan as a table of runs, of what captured tensors hold now."""
        return replace(self, closed_form=None, table=self._runs)

    @property
    def q_tiles(self) -> int:
        """Tiles along q, the last one possibly cut."""
        return -(-self.q_len // self.tile_shape[0])

    @property
    def kv_tiles(self) -> int:
        """Tiles along kv."""
        return -(-self.kv_len // self.tile_shape[1])

    @property
    def _outer_tiles(self) -> int:
        return self.q_tiles if self.outer == "q" else self.kv_tiles

    @cached_property
    def _runs(self) -> RunTable:
        """The runs as a table, whatever the kind of the plan."""
        if self._ends is not None:
            return self._ends.table()
        assert self.table is not None
        return self.table

    @cached_property
    def _by_row(self) -> RunTable:
        """The runs of kv tiles, also of a transposed plan."""
        return self._runs if self.outer == "q" else self.transposed()._runs

    def _row(self, b: int, h: int, outer: int) -> int:
        for name, index, size in (("b", b, self.batch), ("h", h, self.heads)):
            if not 0 <= index < size:
                raise ArgumentError(f"{name} is {index}, outside [0, {size})")
        if not 0 <= outer < self._outer_tiles:
            raise ArgumentError(f"tile {outer} is outside [0, {self._outer_tiles})")
        grid = self._scene.grid
        b, h = b * self.depends_on_batch, h * self.depends_on_head
        return (b * grid.heads + h) * self._outer_tiles + outer

    def runs(self, b: int, h: int, outer: int) -> list[Run]:
        """The live inner tiles of an outer tile as runs: ascending, disjoint, maximal."""
        return [Run(*run) for run in self._runs.runs(self._row(b, h, outer))]

    def tile(self, b: int, h: int, i: int, j: int) -> Literal["empty", "partial", "full"]:
        """The state of q tile i, kv tile j, whichever axis is outer."""
        outer, inner, tiles = (i, j, self.kv_tiles) if self.outer == "q" else (j, i, self.q_tiles)
        if not 0 <= inner < tiles:
            raise ArgumentError(f"tile {inner} is outside [0, {tiles})")
        for run in self.runs(b, h, outer):
            if run.start <= inner < run.stop:
                return "full" if run.full else "partial"
        return "empty"

    @cached_property
    def live_tiles(self) -> int:
        """Tiles that are not empty, over all b and h."""
        return int((self._runs.stops.astype(np.int64) - self._runs.starts).sum()) * self._copies

    @property
    def _copies(self) -> int:
        """How many (b, h) share one row of the table."""
        grid = self._scene.grid
        distinct = grid.batch * grid.heads
        return self.batch * self.heads // distinct if distinct else 0

    @property
    def density(self) -> float:
        """Live tiles / all tiles; 0 where there are none."""
        total = self.batch * self.heads * self.q_tiles * self.kv_tiles
        return self.live_tiles / total if total else 0.0

    @cached_property
    def pairs(self) -> int:
        """Allowed pairs over all b and h. Exact."""
        if self._ends is not None:
            return sum(int(counts.sum()) for counts in self._ends.row_counts()) * self._copies
        return count_pairs(self._by_row, self._scene) * self._copies

    @cached_property
    def may_have_empty_rows(self) -> bool:
        """Has some query row no allowed key? Exact."""
        if self.batch * self.heads * self.q_len == 0:
            return False
        if self._ends is not None and self.outer == "q":
            return any(bool((counts == 0).any()) for counts in self._ends.row_counts())
        return has_empty_row(self._by_row, self._scene)

    @cached_property
    def needs_mask(self) -> bool:
        """Has some live tile a pair that is not allowed, or may one come to have it? Exact.

        Where not, a kernel with this plan's tiles looks at the lengths only. A mask of captured
        tensors always needs it, since their contents may change after the plan is made.
        """
        if any(n.op is Op.LOAD for n in walk(self._scene.expr)):
            return True
        return not bool(self._runs.full_runs().all())

    @property
    def nbytes(self) -> int:
        """Bytes of the table that a kernel reads; a closed form has none."""
        return 0 if self.table is None else self.table.nbytes

    @property
    def scene(self) -> Scene:
        """The mask bound to the grid, for explanations and tests."""
        return self._scene

    def row_runs(self, b: int, h: int, i: int) -> list[Run]:
        """Runs of kv tiles of q tile `i`, whichever axis is outer."""
        return (self if self.outer == "q" else self.transposed()).runs(b, h, i)

    def allowed(self, b: int, h: int, rows: Array, columns: Array) -> Array:
        """The mask at every pair of query rows and key columns: bool [rows, columns]."""
        batch, head = np.asarray(b), np.asarray(h)
        return self._scene.evaluate(batch, head, np.asarray(rows)[:, None], np.asarray(columns))

    def explain(self) -> str:
        """How the plan was found, why in this way, and what it saves, in words."""
        return explain(self)

    def plot(self, path: str | Path) -> None:
        """Write a picture of the mask and its tiles to a .png or .svg file; needs matplotlib."""
        plot(self, path)

    def __str__(self) -> str:
        return draw(self)

    def to_dense(self, tokens: bool = False) -> Array:
        """The whole map, for tests and pictures.

        Returns:
            int8 [batch, heads, q_tiles, kv_tiles] of 0 empty, 1 partial, 2 full; with `tokens`,
            bool [batch, heads, q_len, kv_len], the mask itself.
        """
        grid = self._scene.grid
        if tokens:
            result = self._scene.evaluate(
                np.arange(grid.batch)[:, None, None, None],
                np.arange(grid.heads)[:, None, None],
                np.arange(self.q_len)[:, None],
                np.arange(self.kv_len),
            )
            return np.array(np.broadcast_to(result, (self.batch, self.heads, *result.shape[2:])))
        states = np.zeros((grid.batch * grid.heads * self.q_tiles, self.kv_tiles), np.int8)
        table = self._by_row
        full = table.full_runs()
        for k, row in enumerate(table.row_of_runs()):
            states[row, table.starts[k] : table.stops[k]] = 1 + full[k]
        shaped = states.reshape(grid.batch, grid.heads, self.q_tiles, self.kv_tiles)
        shape = (self.batch, self.heads, self.q_tiles, self.kv_tiles)
        return np.array(np.broadcast_to(shaped, shape))

    def transposed(self) -> BlockPlan:
        """The plan whose outer axis is the other one: runs of q tiles for each kv tile."""
        return self._other

    @cached_property
    def _other(self) -> BlockPlan:
        depends = (self.depends_on_batch, self.depends_on_head)
        outer: Outer = "kv" if self.outer == "q" else "q"
        other = _plan_of(
            self.mask, self.batch, self.heads, depends, self._scene, outer, self._tiles
        )
        other.__dict__["_other"] = self
        return other
