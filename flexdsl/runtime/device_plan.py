"""Plans of kind "device": the run table made where the captured tensors are, by kernels.

    captured tensors --extremes, members--> summaries --plan_states--> states of tiles, proven
        --plan_refine--> exact states --plan_counts--> counts of tiles and of runs
        --a sort, cumulative sums, plan_runs--> run table

For consumers that skip tiles states are those of their own rows, joined (`part_tiles.py`).
It takes one byte for each tile, and room for the longest table that there can be: what is in it is
known on the device alone. Nothing waits for the device, and a CUDA graph may capture it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.table import room_for
from flexdsl.codegen import Argument, Kernel, KernelSpec, Language, Phase, Role
from flexdsl.codegen.planner import COLUMNS, ROWS
from flexdsl.codegen.refinement import LANES
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.ir import Expr, Program
from flexdsl.runtime import part_tiles
from flexdsl.runtime.bind import Bound
from flexdsl.runtime.cache import load
from flexdsl.runtime.extremes import elements, extremes, not_empty
from flexdsl.runtime.members import members
from flexdsl.runtime.memory import Memory
from flexdsl.runtime.run_table import DeviceTable, longest_first
from flexdsl.runtime.tuning import configs

# Tables of two masks: of the forward kernel and of two backward ones. Each has room for more runs
# than most masks have, so that few are kept.
_TABLES = Memory(6)
_KERNELS: dict[tuple[Phase, Expr | None], Kernel] = {}


class Launch(Protocol):
    """Runs the kernel of a phase of planning; `mask` where it depends on the mask.

    Given are arrays, sizes and parameters by name, and captured tensors by name.
    """

    def __call__(
        self,
        phase: Phase,
        mask: Program | None,
        programs: int,
        given: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        tile: tuple[int, int],
        device: torch.device,
    ) -> None:
        """Run it with `programs` programs, for plans of tiles of the shape `tile`."""


def find_table(
    plan: BlockPlan, bound: Bound, device: torch.device, launch: Launch, parts: int = 1
) -> DeviceTable:
    """`make_table` of the plan of a call, made once while its captured tensors do not change."""
    sizes = plan.q_len, plan.kv_len, plan.q_offset, plan.batch, plan.heads

    def make() -> DeviceTable:
        return make_table(plan, bound.mask_values, device, launch, parts)

    return _TABLES.get((bound.mask,), (*sizes, plan.tile_shape, plan.outer, device, parts), make)


def make_table(
    plan: BlockPlan,
    values: Mapping[str, Any],
    device: torch.device,
    launch: Launch,
    parts: int = 1,
) -> DeviceTable:
    """The run table of a plan, as a kernel reads it: the cut last tile masked.

    Args:
        values: parameters and captured tensors of its mask, on `device`.
        launch: runs the kernels.
        parts: of an outer tile; with more than one the table is for consumers that skip tiles.
    """
    grid = plan.scene.grid
    found, is_cut = _exact_states(plan, values, device, launch, parts)
    outer, inner = found.shape[2:]
    room = room_for(grid.batch * grid.heads * outer, inner)

    def numbers(count: int) -> Tensor:
        return torch.empty(count, dtype=torch.int32, device=device)

    of_rows = ("tiles", "runs", "full_runs", "merged_from")
    counts = {name: numbers(room.rows) for name in of_rows}
    offsets = torch.zeros(room.rows + 1, dtype=torch.int32, device=device)
    full_ends, starts, stops = numbers(room.rows), numbers(room.runs), numbers(room.runs)
    given: dict[str, Any] = {
        "states": found,
        "inner_tiles": inner,
        "most_runs": room.runs_of_row,
        **counts,
        "offsets": offsets,
        "full_ends": full_ends,
        "starts": starts,
        "stops": stops,
        "cut_tile": inner - 1 if is_cut else inner,
    }
    launch(Phase.PLAN_COUNTS, None, room.rows, given, {}, plan.tile_shape, device)
    torch.cumsum(counts["runs"], 0, dtype=torch.int32, out=offsets[1:])
    torch.add(offsets[:-1], counts["full_runs"], out=full_ends)
    launch(Phase.PLAN_RUNS, None, room.rows, given, {}, plan.tile_shape, device)
    order = longest_first(counts["tiles"], outer)
    table = DeviceTable(offsets, full_ends, starts, stops, order)
    if parts == 1:
        return table
    return part_tiles.with_kinds(table, found, counts["merged_from"], parts)


def _exact_states(
    plan: BlockPlan, values: Mapping[str, Any], device: torch.device, launch: Launch, parts: int
) -> tuple[Tensor, bool]:
    """States [batch, heads, outer tiles, inner tiles], with whose they are where there are parts,
    and whether the last inner tile is cut.
    """
    of_parts = _of_parts(plan, parts)
    found = states(of_parts, values, device, launch)
    refine(found, of_parts, values, launch)
    found, is_cut = _along_inner(found, plan)
    return (found if parts == 1 else part_tiles.joined(found, parts)), is_cut


def _of_parts(plan: BlockPlan, parts: int) -> BlockPlan:
    """The plan of parts of outer tiles."""
    if parts == 1:
        return plan
    height, width = plan.tile_shape
    of_queries = plan.outer == "q"
    return plan.with_tile((height // parts, width) if of_queries else (height, width // parts))


def _along_inner(found: Tensor, plan: BlockPlan) -> tuple[Tensor, bool]:
    """States [batch, heads, outer tiles, inner tiles], and whether the last inner tile is cut."""
    if plan.outer == "q":
        return found, plan.kv_len % plan.tile_shape[1] > 0
    return found.transpose(2, 3).contiguous(), plan.q_len % plan.tile_shape[0] > 0


def states(
    plan: BlockPlan, values: Mapping[str, Any], device: torch.device, launch: Launch
) -> Tensor:
    """int8 [batch, heads, q tiles, kv tiles] of 0 empty, 1 partial, 2 full, proven on `device`.

    batch and heads are those that the mask tells apart. Partial tiles may be empty or full.
    """
    grid = plan.scene.grid
    shape = grid.batch, grid.heads, grid.q_tiles, grid.kv_tiles
    found = torch.empty(shape, dtype=torch.int8, device=device)
    programs = -(-grid.q_tiles // ROWS) * -(-grid.kv_tiles // COLUMNS) * grid.batch * grid.heads
    tensors = {n: elements(v) for n, v in values.items() if isinstance(v, Tensor)}
    given = {"states": found, **given_of(plan, values)}
    launch(Phase.PLAN_STATES, plan.mask, programs, given, tensors, plan.tile_shape, device)
    return found


def refine(found: Tensor, plan: BlockPlan, values: Mapping[str, Any], launch: Launch) -> None:
    """Make what `states` gave equal to brute force, in place: partial tiles are evaluated."""
    grid = plan.scene.grid
    programs = -(-grid.kv_tiles // LANES) * grid.q_tiles * grid.batch * grid.heads
    tensors = {n: not_empty(v) for n, v in values.items() if isinstance(v, Tensor)}
    given = {"states": found, **given_of(plan, values)}
    launch(Phase.PLAN_REFINE, plan.mask, programs, given, tensors, plan.tile_shape, found.device)


def given_of(plan: BlockPlan, values: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a plan and the parameters of its mask, by name."""
    grid = plan.scene.grid
    return {
        "heads": grid.heads,
        "q_len": grid.q_len,
        "kv_len": grid.kv_len,
        "q_offset": grid.q_offset,
        "q_tiles": grid.q_tiles,
        "kv_tiles": grid.kv_tiles,
        **{name: value for name, value in values.items() if not isinstance(value, Tensor)},
    }


def launch_compiled(
    phase: Phase,
    mask: Program | None,
    programs: int,
    given: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    tile: tuple[int, int],
    device: torch.device,
) -> None:
    """Run a kernel that is generated and compiled as it is needed."""
    if not programs:
        return
    kernel = _kernel(phase, mask)
    arguments = [value_of(a, given, tensors) for a in kernel.arguments]
    (config,) = configs(phase, 0, 0, 0)
    sizes = {"BLOCK_M": tile[0], "BLOCK_N": tile[1], "num_warps": config.num_warps}
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        load(kernel)[(programs,)](*arguments, **sizes)


def _kernel(phase: Phase, mask: Program | None) -> Kernel:
    key = phase, None if mask is None else mask.expr
    if key not in _KERNELS:
        _KERNELS[key] = GENERATORS[phase, Language.TRITON](KernelSpec(mask, None, None, 0, 0))
    return _KERNELS[key]


def value_of(argument: Argument, given: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """The value of an argument: a number, or a tensor for a pointer."""
    match argument.role:
        case Role.ELEMENTS | Role.CAPTURE:
            return tensors[argument.of]
        case Role.STRIDE:
            return tensors[argument.of].stride(argument.index)
        case Role.EXTREMES:
            return extremes(tensors[argument.of])
        case Role.MEMBERS:
            return members(tensors[argument.of])
        case Role.LENGTH:
            return tensors[argument.of].shape[argument.index]
    return given[argument.of]
