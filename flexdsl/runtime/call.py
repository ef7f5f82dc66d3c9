"""One call of `attention` as its kernels see it: what each argument is, how many programs run.

A kernel lists its arguments by role (`codegen/kernel.py`); here each role gets its value of a call.
Who compiles or loads the kernel, and how it gets the values, is a launcher's: `launch.py` by
triton, `bundled.py` by the driver alone. This file imports neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.bounded import is_bounded
from flexdsl.analysis.chosen_blocks import are_chosen
from flexdsl.analysis.gradient import LearnedLoad, learned_loads
from flexdsl.codegen import (
    OF_KEYS,
    Argument,
    KernelSpec,
    Language,
    Phase,
    Role,
    table_length,
)
from flexdsl.codegen.hopper.module import GROUP_ROWS
from flexdsl.errors import InternalError
from flexdsl.ir import Capture, Op, captures_of
from flexdsl.runtime import bind, machine, mask_bits
from flexdsl.runtime.blocks import blocks_of, flat_blocks
from flexdsl.runtime.differences import differences_of
from flexdsl.runtime.low_rank import score_of_kernel
from flexdsl.runtime.own_tiles import OwnTiles, own_tiles
from flexdsl.runtime.run_table import DeviceTable, TableWithBits
from flexdsl.runtime.tuning import Config

LOG2E = 1.4426950408889634

# Names of element types as targets and bundles have them.
DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}

# Kernels that look at no pair.
OF_ROWS = (
    *(Phase.FACTORS, Phase.DIFFERENCES, Phase.FORWARD_MERGE),
    *(Phase.BACKWARD_ROWS, Phase.BACKWARD_SUMS),
)
# Those that visit the live tiles of a plan, and no other. That of few queries does so too, but its
# text is not to be another one where a cache of keys has grown by one.
_BY_TILES = (
    *(Phase.FORWARD, Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY),
    *(Phase.BACKWARD_LEARNED_QUERY, Phase.BACKWARD_LEARNED_KEY),
)

# A field of `Call` that holds tensors, and a name in it.
Slot = tuple[str, str]
# The index of an address, and bytes after it.
Place = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Call:
    """What the kernels of one call of `attention` have in common.

    Attributes:
        bound: mask, score and their values.
        scale: factor of the scores.
        tensors: those with descriptors, aligned, by the name that kernels use; query and key are
            among them.
        rows: float32 [B, Hq, Lq] tensors by name.
        sums: float32 sums of learned loads, by their number, and of halves of dQ; results by parts
            of the keys.
        gradients: float32 gradients of captured tensors, by name.
        tables: those of q - kv, by name.
        hopper: kernels in Gluon are to be tried first.
        places: where each tensor lies from the addresses that a launch is given when it is done
            again.
        heads: of the gradient of keys, counted through all batches, that kernels are launched for
            where they can be for some; None for all.
        sizes: what such kernels are told of them, and those of parts of the keys of their splits.
    """

    bound: bind.Bound
    scale: float
    tensors: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    sums: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    gradients: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    tables: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    hopper: bool = False
    places: Mapping[Slot, Place] = field(default_factory=dict[Slot, Place])
    heads: range | None = None
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])

    @cached_property
    def values(self) -> dict[str, Any]:
        """Parameters and captures of mask and score, and tables, by name."""
        return {**self.bound.mask_values, **self.bound.score_values, **self.tables}

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.tensors["query"].device

    @property
    def addresses(self) -> list[int]:
        """Those that a launch of this very call is given when it is done again."""
        found = [0] * (1 + max((index for index, _ in self.places.values()), default=-1))
        for (group, name), (index, offset) in self.places.items():
            found[index] = getattr(self, group)[name].data_ptr() - offset
        return found

    def plan(self, phase: Phase, config: Config) -> BlockPlan:
        """The user's plan where it has this tile or needs none, else one of this tile.

        The kernel of dK and dV takes it transposed, of which the kind may be another one. A kernel
        that may read its mask as bits takes some closed forms as tables.
        """
        plan = self._plan(phase, config)
        if not may_read_bits(phase, config):
            return plan
        if plan.tile_shape != config.tile:  # a table, if it becomes one, is of the kernel's tiles
            plan = self._plan_in_tiles(phase, config)
        return mask_bits.with_table(self.bound, plan)

    def _plan(self, phase: Phase, config: Config) -> BlockPlan:
        given = self.bound.plan
        if given is not None:
            plan = _turned(given, phase)
            if plan.closed_form or plan.tile_shape == config.tile:
                return plan
            if given.device is not None:
                return _turned(given.with_tile(config.tile), phase)
        return self._plan_in_tiles(phase, config)

    def _plan_in_tiles(self, phase: Phase, config: Config) -> BlockPlan:
        found = bind.find_plan(self.bound.mask, self.bound.lengths, config.tile)
        return _turned(found, phase)

    def spec(self, phase: Phase, plan: BlockPlan | None, config: Config) -> KernelSpec:
        """What a kernel of this call has in its text."""
        closed_form = None if plan is None else plan.closed_form
        mask = self.bound.mask
        score = score_of_kernel(self.bound, self.tensors["query"].dtype, phase)
        # A Gluon program without any tile masks the pairs of one away.
        portable = phase in _BY_TILES and config.language is Language.TRITON
        if portable and plan is not None and plan.tile_shape == config.tile:
            mask = mask if plan.needs_mask else None
        bits = plan is not None and self.reads_bits(phase, plan, config)
        if bits or (mask is not None and mask.expr.op is Op.CONST):
            mask = None
        head_dim, value_dim = (self.tensors[n].shape[3] for n in ("query", "value"))
        return KernelSpec(
            mask,
            score,
            closed_form,
            head_dim,
            value_dim,
            self.bound.clamped,
            self._wide(),
            self.tensors["query"].shape[1] != self.tensors["key"].shape[1],
            frozenset(self.bound.learned),
            config.consumers,
            self.bound.products,
            self.bound.tables,
            bits,
            plan is not None and self.skips(phase, plan, config),
            phase is Phase.FORWARD and config.language is Language.GLUON and self.needs_no_maximum,
        )

    @cached_property
    def needs_no_maximum(self) -> bool:
        """Is the score so small that a softmax needs no running maximum?

        Not where weights are float16, which has no such numbers.
        """
        score, lengths = self.bound.score, self.bound.lengths
        if score is None or self.tensors["query"].dtype is not torch.bfloat16:
            return False
        return is_bounded(score, lengths.positions)

    def reads_bits(self, phase: Phase, plan: BlockPlan, config: Config) -> bool:
        """Does a kernel read the mask of its masked tiles as bits?"""
        has_table = plan.closed_form is None and may_read_bits(phase, config)
        if not has_table or self.takes_blocks(phase, plan, config):
            return False
        return mask_bits.reason_against(self.bound, plan) is None

    def skips(self, phase: Phase, plan: BlockPlan, config: Config) -> bool:
        """Do consumers skip tiles that have no pair for their own rows?"""
        if self.takes_blocks(phase, plan, config):
            return True
        bits = self.reads_bits(phase, plan, config)
        return bits and self.own_tiles(phase, plan, config) is not None

    def own_tiles(self, phase: Phase, plan: BlockPlan, config: Config) -> OwnTiles | None:
        """The tiles of consumers of a kernel that reads bits and skips tiles; None elsewhere."""
        # Where there are less products for the softmax to hide behind it has not been measured.
        dim = max(self.tensors[n].shape[3] for n in ("query", "value"))
        if phase is not Phase.FORWARD or not may_skip(phase, config) or not 64 < dim <= 128:
            return None
        found = own_tiles(plan)
        return found if found is not None and found.pays else None

    def takes_blocks(self, phase: Phase, plan: BlockPlan, config: Config) -> bool:
        """Do consumers skip tiles by the blocks that captured numbers choose?"""
        has_table = plan.closed_form is None and may_skip_blocks(phase, config)
        return has_table and self.chooses_blocks

    @cached_property
    def chooses_blocks(self) -> bool:
        """Do captured numbers choose blocks of 64, of which wider tiles would have some each?"""
        mask, offset = self.bound.mask, self.bound.lengths.q_offset
        return mask is not None and offset % GROUP_ROWS == 0 and are_chosen(mask.expr, GROUP_ROWS)

    def _wide(self) -> frozenset[Capture]:
        values = self.values
        found = [p.expr for p in (self.bound.mask, self.bound.score) if p is not None]
        found += [x for p in self.bound.products for x in (p.row, p.key)]
        found += [t.number for t in self.bound.tables]
        captures = (c for x in found for c in captures_of(x))
        return frozenset(c for c in captures if values[c.name].numel() >= 2**31)


def may_skip(phase: Phase, config: Config) -> bool:
    """Is a kernel one of those whose consumers know how to skip tiles?"""
    if config.language is not Language.GLUON:
        return False
    outer = config.block_m if phase is Phase.FORWARD else config.block_n
    return phase in (Phase.FORWARD, Phase.BACKWARD) and outer == 2 * GROUP_ROWS


def may_skip_blocks(phase: Phase, config: Config) -> bool:
    """Is a kernel one of those whose consumers skip blocks of 64 by 64?

    Other tiles than of 64 inner positions have a part of most blocks.
    """
    inner = config.block_n if phase is Phase.FORWARD else config.block_m
    return may_skip(phase, config) and inner == GROUP_ROWS


def may_read_bits(phase: Phase, config: Config) -> bool:
    """Is a kernel one of those that know how to read their mask as bits?"""
    return phase in (Phase.FORWARD, Phase.BACKWARD) and config.language is Language.GLUON


def _turned(plan: BlockPlan, phase: Phase) -> BlockPlan:
    """The plan of that mask and those tiles along the axis of a kernel's loops."""
    return plan.transposed() if phase in OF_KEYS else plan


def loads_of(bound: bind.Bound) -> tuple[LearnedLoad, ...]:
    """The loads of captured tensors whose gradients are wanted."""
    return () if bound.score is None else learned_loads(bound.score.expr, bound.learned)


def programs_of(phase: Phase, arguments: tuple[Argument, ...], call: Call, config: Config) -> int:
    """How many programs a kernel of `phase` has: one for each outer tile of each of its heads.

    Of the kernels of few queries, one for each split of heads that share it, and one for each row.
    """
    lengths = call.bound.lengths
    counts = tile_counts(lengths, config)
    if phase is Phase.FORWARD_SPLIT:
        heads = lengths.batch * lengths.heads
        return heads // call.sizes["packed"] * call.sizes["splits"]
    if phase is Phase.FORWARD_MERGE:
        return lengths.batch * lengths.heads * lengths.q_len
    if phase is Phase.FACTORS:
        planes = math.prod(call.tensors["key_factors"].shape[:2])
        return _query_programs(call, config) + counts["kv_tiles"] * planes
    if phase is Phase.DIFFERENCES:
        planes = math.prod(next(iter(call.tables.values())).shape[:-1])
        return counts["difference_tiles"] * planes
    of_keys = phase in OF_KEYS
    axis = "kv_tiles" if of_keys else "q_tiles"
    if any(a.of == "diagonals" for a in arguments):
        axis = "diagonals"
    batch, heads = call.tensors["key" if of_keys else "query"].shape[:2]
    number = batch * heads if call.heads is None else len(call.heads)
    return counts[axis] * number


def grid_of(programs: int, arguments: Iterable[Argument], device: torch.device) -> int:
    """How many programs are started: no more than run at a time, of those that stay for more."""
    if any(a.role is Role.COUNTER for a in arguments):
        return min(programs, machine.MACHINE.multiprocessors(device))
    return programs


def _query_programs(call: Call, config: Config) -> int:
    """Programs of the kernel of factors that have rows."""
    planes = math.prod(call.tensors["query_factors"].shape[:2])
    return tile_counts(call.bound.lengths, config)["q_tiles"] * planes


def row_stride(q_len: int) -> int:
    """Numbers from one head's rows of lse_log2 and delta to the next's: whole 16 bytes."""
    return -(-q_len // 4) * 4


def tile_counts(lengths: bind.Lengths, config: Config) -> dict[str, int]:
    """How many tiles, diagonals and tiles of differences a head has, by the name in kernels."""
    q_tiles, kv_tiles = -(-lengths.q_len // config.block_m), -(-lengths.kv_len // config.block_n)
    found = {"q_tiles": q_tiles, "kv_tiles": kv_tiles, "diagonals": q_tiles + kv_tiles - 1}
    return found | {"difference_tiles": -(-table_length(differences_of(lengths)) // config.block_n)}


def value_of(
    argument: Argument,
    call: Call,
    plan: BlockPlan | None,
    table: DeviceTable | None,
    config: Config,
) -> Any:
    """The value of an argument: a number, a tensor for a pointer, or `Blocks` for a descriptor.

    Args:
        plan: of a kernel that looks at pairs, by a table.
        table: the plan's, on the device.
    """
    name, index = argument.of, argument.index
    match argument.role:
        case Role.DESCRIPTOR:
            return blocks_of(call.tensors[name], config.rows(argument), index)
        case Role.FACTORS | Role.TENSOR:
            return call.tensors[name]
        case Role.TENSOR_STRIDE:
            return call.tensors[name].stride(index)
        case Role.DIFFERENCES:
            return call.tables[name]
        case Role.ROWS:
            return call.rows[name]
        case Role.ROWS_DESCRIPTOR:
            return flat_blocks(call.rows[name], config.rows(argument))
        case Role.SCALE:
            return call.scale * (LOG2E if call.bound.score is None else 1.0)
        case Role.SIZE:
            return _size(name, call, config)
        case Role.PARAMETER | Role.CAPTURE:
            return call.values[name]
        case Role.LENGTH:
            return call.values[name].shape[index]
        case Role.STRIDE:
            return call.values[name].stride(index)
        case Role.SUMS | Role.PARTS:
            return call.sums[name]
        case Role.COUNTER:
            return call.sums[name].view(torch.int32)
        case Role.GRADIENT:
            return call.gradients[name]
        case Role.GRADIENT_STRIDE:
            return call.gradients[name].stride(index)
        case Role.TABLE if table is not None:
            return getattr(table, name)
        case Role.MASK_BITS if isinstance(table, TableWithBits):
            return table.mask_words
        case Role.TABLE_STRIDE if plan is not None:
            return _table_stride(name, plan, call)
    raise InternalError(f"a kernel without a plan has the argument {argument.name}")


def _size(name: str, call: Call, config: Config) -> int:
    if name == "query_programs":
        return _query_programs(call, config)
    kv_heads = call.tensors["key"].shape[1]
    lengths = call.bound.lengths
    sizes = {"kv_heads": kv_heads, "group": lengths.heads // kv_heads}
    sizes["all_heads"] = lengths.batch * lengths.heads
    sizes["all_kv_heads"] = lengths.batch * kv_heads
    sizes["differences"] = differences_of(lengths)
    sizes["table_length"] = table_length(sizes["differences"])
    sizes["row_stride"] = row_stride(lengths.q_len)
    sizes |= tile_counts(lengths, config) | call.sizes
    return sizes[name] if name in sizes else int(getattr(lengths, name))


def _table_stride(axis: str, plan: BlockPlan, call: Call) -> int:
    """Rows of the run table from one batch ("b") or head ("h") to the next."""
    if axis == "h":
        return plan.outer_tiles if plan.depends_on_head else 0
    heads = call.bound.lengths.heads if plan.depends_on_head else 1
    return plan.outer_tiles * heads if plan.depends_on_batch else 0
