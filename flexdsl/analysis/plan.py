"""The block plan: which tiles of the attention matrix a mask needs, by proof.

`make_plan` chooses the way (closed form, then table; on a device, a table that a kernel makes) and
checks what it is given; `BlockPlan` answers questions about the result, each computed when first
asked. Neither runs a kernel, and neither allocates anything of the size of the matrix or of its
tile grid, except `to_dense` and `states`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flexdsl.analysis.arguments import check_kind, check_sizes
from flexdsl.analysis.bounds import check_loads
from flexdsl.analysis.closed_form import ClosedForm, Declined
from flexdsl.analysis.closed_runs import Ends
from flexdsl.analysis.dense import dense_states, dense_tokens
from flexdsl.analysis.draw import draw, plot
from flexdsl.analysis.explain import explain
from flexdsl.analysis.facts import count_pairs, has_empty_row
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.planning import Outer, plan_of, table_of
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.shape import ends_ascend, is_contiguous
from flexdsl.analysis.symmetry import is_symmetric
from flexdsl.analysis.table import OF_FORM, RunTable, room_for
from flexdsl.analysis.values import bind
from flexdsl.errors import ArgumentError
from flexdsl.ir import Program, captures_of, const

Array = NDArray[Any]


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
    device: str | None = None,
    made: type[BlockPlan] | None = None,
) -> BlockPlan:
    """The block plan of a mask.

    Args:
        mask: a mask program with its values; None allows every pair.
        q_len, kv_len: rows and columns of the attention matrix, 0 or more.
        batch, heads: sizes of the axes b and h (query heads).
        tile: rows and columns of a tile.
        q_offset: position of query row 0.
        device: where the mask's captured tensors are. A kernel makes the table there once attention
            needs it, unless a closed form holds whatever they contain: they are not read here.
        made: the class of the plan, `BlockPlan` or one derived from it.

    Raises:
        ArgumentError: a length, tile or offset is not a number that makes sense.
        KindError: `mask` is a score modification.
        CaptureError, IndexRangeError: a captured tensor is missing, or is read outside its range.
    """
    sizes = {"q_len": q_len, "kv_len": kv_len, "batch": batch, "heads": heads}
    check_sizes(sizes, tile, q_offset)
    check_kind(mask)
    expr = const(True) if mask is None else mask.expr
    bindings = bind({} if mask is None else mask.values, expr)
    if mask is not None:
        axes = (q_len, kv_len, batch, heads, q_offset)
        check_loads(expr, None, *axes, mask.values, mask.spans)
    distinct_b = batch if "b" in expr.variables else min(batch, 1)
    distinct_h = heads if "h" in expr.variables else min(heads, 1)
    grid = Grid(q_len, kv_len, tile, q_offset, distinct_b, distinct_h)
    scene = Scene(expr, bindings, grid)
    if not captures_of(expr) or grid.is_empty:
        device = None
    return plan_of(made or BlockPlan, mask, (batch, heads), scene, "q", device)


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """Which tiles of the attention matrix are empty, partial or full.

    Tile (i, j) holds query rows [i * BM, (i + 1) * BM) and key columns [j * BN, (j + 1) * BN), both
    cut at the lengths; pairs outside do not count. Query row r has position q_offset + r.

    What a plan of kind "device" is asked on the host is found there, from a copy of the captured
    tensors. The table of the device says the same.

    Attributes:
        mask: the program, or None where every pair is allowed.
        tile_shape: (BM, BN).
        depends_on_batch, depends_on_head: where False, all b (or h) have the same runs.
        device: where a kernel makes the table, if there has to be one.
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
    device: str | None
    closed_form: ClosedForm | None
    table: RunTable | None
    why_table: Declined | None
    outer: Outer
    _scene: Scene
    _ends: Ends | None

    @property
    def kind(self) -> Literal["closed-form", "table", "device"]:
        """How the runs are known: computed by the kernel, or from a table, made here or there."""
        if self.closed_form is not None:
            return "closed-form"
        return "table" if self.device is None else "device"

    @cached_property
    def tabulated(self) -> BlockPlan:
        """The same plan as a table of runs, of what captured tensors hold now."""
        if self.closed_form is None:
            return self
        # On a device a kernel makes it.
        table = replace(self._runs, made=OF_FORM) if self.device is None else None
        return replace(self, closed_form=None, table=table)

    @property
    def q_tiles(self) -> int:
        """Tiles along q, the last one possibly cut."""
        return -(-self.q_len // self.tile_shape[0])

    @property
    def kv_tiles(self) -> int:
        """Tiles along kv."""
        return -(-self.kv_len // self.tile_shape[1])

    @property
    def outer_tiles(self) -> int:
        """Tiles along the axis that programs are spread over."""
        return self.q_tiles if self.outer == "q" else self.kv_tiles

    @cached_property
    def _runs(self) -> RunTable:
        """The runs as a table, whatever the kind of the plan."""
        if self._ends is not None:
            return self._ends.table()
        return self.table or table_of(self._scene, self.outer)

    @cached_property
    def _by_row(self) -> RunTable:
        """The runs of kv tiles, also of a transposed plan."""
        return self._runs if self.outer == "q" else self.transposed()._runs

    def _row(self, b: int, h: int, outer: int) -> int:
        for name, index, size in (("b", b, self.batch), ("h", h, self.heads)):
            if not 0 <= index < size:
                raise ArgumentError(f"{name} is {index}", fix=f"{name} of 0 to {size - 1}")
        if not 0 <= outer < self.outer_tiles:
            raise ArgumentError(f"there is no tile {outer}", fix=_tiles(self.outer_tiles))
        grid = self._scene.grid
        b, h = b * self.depends_on_batch, h * self.depends_on_head
        return (b * grid.heads + h) * self.outer_tiles + outer

    def runs(self, b: int, h: int, outer: int) -> list[Run]:
        """The live inner tiles of an outer tile as runs: ascending, disjoint, maximal."""
        return [Run(*run) for run in self._runs.runs(self._row(b, h, outer))]

    def tile(self, b: int, h: int, i: int, j: int) -> Literal["empty", "partial", "full"]:
        """The state of q tile i, kv tile j, whichever axis is outer."""
        outer, inner, tiles = (i, j, self.kv_tiles) if self.outer == "q" else (j, i, self.q_tiles)
        if not 0 <= inner < tiles:
            raise ArgumentError(f"there is no tile {inner}", fix=_tiles(tiles))
        for run in self.runs(b, h, outer):
            if run.start <= inner < run.stop:
                return "full" if run.full else "partial"
        return "empty"

    @cached_property
    def live_tiles(self) -> int:
        """Tiles that are not empty, over all b and h."""
        return int((self._runs.stops.astype(np.int64) - self._runs.starts).sum()) * self._copies

    @cached_property
    def full_tiles(self) -> int:
        """Tiles that are full, over all b and h."""
        runs = self._runs
        lengths = runs.stops.astype(np.int64) - runs.starts
        return int(lengths[runs.full_runs()].sum()) * self._copies

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
        if self._scene.expr.loads:
            return True
        return not bool(self._runs.full_runs().all())

    @cached_property
    def is_symmetric(self) -> bool:
        """Is allowed(q, kv) == allowed(kv, q) for all positions? True is proven."""
        return is_symmetric(self._scene.expr)

    @property
    def is_contiguous(self) -> bool:
        """Are the allowed positions of each outer one a single range? True is proven."""
        form = self.closed_form
        return form is not None and is_contiguous(form)

    @cached_property
    def ends_ascend(self) -> bool:
        """Is there one range, neither of whose ends ever decreases along the outer axis? As above.

        It holds whatever captured tensors contain.
        """
        form, scene = self.closed_form, self._scene
        return form is not None and ends_ascend(form, scene.grid, scene.bindings)

    @property
    def nbytes(self) -> int:
        """Bytes of the table of runs that a kernel reads; a closed form has none.

        On a device it is the room for the longest table that a mask can have. The order in which
        its rows start, which the runtime makes, is not among them: four bytes a row.
        """
        if self.kind == "device":
            distinct = self._scene.grid.batch * self._scene.grid.heads
            inner = self.kv_tiles if self.outer == "q" else self.q_tiles
            return room_for(distinct * self.outer_tiles, inner).nbytes
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
        states = dense_tokens(self._scene) if tokens else self.states()
        return np.array(np.broadcast_to(states, (self.batch, self.heads, *states.shape[2:])))

    def states(self) -> Array:
        """`to_dense` of the batches and heads that the mask tells apart: 1 where it does not."""
        return dense_states(self._by_row, self._scene)

    def transposed(self) -> BlockPlan:
        """The plan whose outer axis is the other one: runs of q tiles for each kv tile."""
        return self._other

    def with_tile(self, tile: tuple[int, int]) -> BlockPlan:
        """The plan of the same mask and lengths in other tiles, by kv tiles of each q tile."""
        if tile == self.tile_shape:
            return self if self.outer == "q" else self.transposed()
        grid = replace(self._scene.grid, tile=tile)
        scene = replace(self._scene, grid=grid)
        sizes = self.batch, self.heads
        return plan_of(type(self), self.mask, sizes, scene, "q", self.device)

    def with_mask(self, mask: Program) -> BlockPlan:
        """The plan of another mask, made on the host: same lengths, same tiles. Loads of it that
        leave their tensor read the nearest element.
        """
        used = mask.expr.variables
        batch = self.batch if "b" in used else min(self.batch, 1)
        heads = self.heads if "h" in used else min(self.heads, 1)
        grid = replace(self._scene.grid, batch=batch, heads=heads)
        scene = Scene(mask.expr, bind(mask.values, mask.expr), grid)
        return plan_of(BlockPlan, mask, (self.batch, self.heads), scene, "q", None)

    @cached_property
    def _other(self) -> BlockPlan:
        outer: Outer = "kv" if self.outer == "q" else "q"
        other = plan_of(
            type(self),
            self.mask,
            (self.batch, self.heads),
            self._scene,
            outer,
            self.device,
            lambda: self._runs,
        )
        other.__dict__["_other"] = self
        return other


def _tiles(count: int) -> str:
    return f"a tile of 0 to {count - 1}" if count else "a plan with tiles: this one has no pair"
