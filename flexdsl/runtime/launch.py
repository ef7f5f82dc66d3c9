"""Launch a generated kernel: pass it the arguments that it lists, with a configuration that fits.

It runs on a GPU, and on the CPU under Triton's interpreter (TRITON_INTERPRET=1), which tests use.
A configuration for which the GPU has not enough shared memory or registers is followed by the next
one of the table; where none is left, that is an error. Which kernel, plan and tensors: the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from flexdsl.analysis import BlockPlan
from flexdsl.codegen import (
    OF_KEYS,
    Argument,
    Kernel,
    KernelSpec,
    Language,
    Phase,
    Role,
    heavy_last,
    reason_not_covered,
)
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.errors import BackendError, InternalError
from flexdsl.ir import Capture, Op, captures_of
from flexdsl.runtime import bind, device_plan
from flexdsl.runtime.cache import load
from flexdsl.runtime.descriptors import describe, describe_flat
from flexdsl.runtime.low_rank import score_of_kernel
from flexdsl.runtime.run_table import DeviceTable, to_device
from flexdsl.runtime.tuning import Config, configs

LOG2E = 1.4426950408889634

_DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}

# Kernels that look at no pair.
OF_ROWS = (Phase.BACKWARD_ROWS, Phase.BACKWARD_SUMS)
# Those that visit the live tiles of a plan, and no other.
_BY_TILES = (Phase.FORWARD, Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY)

_KERNELS: dict[tuple[Any, ...], Kernel] = {}
_CHOSEN: dict[tuple[Any, ...], Config] = {}
_TABLES: WeakKeyDictionary[BlockPlan, dict[torch.device, DeviceTable]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Call:
    """What the kernels of one call of `attention` have in common.

    Attributes:
        bound: mask, score and their values.
        scale: factor of the scores.
        tensors: those with descriptors, aligned, by the name that kernels use; query and key are
            among them.
        rows: float32 [B, Hq, Lq] tensors by name.
        sums: float32 sums of learned loads, by their number.
        gradients: float32 gradients of captured tensors, by name.
        hopper: kernels in Gluon are to be tried first.
    """

    bound: bind.Bound
    scale: float
    tensors: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    sums: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    gradients: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    hopper: bool = False

    @cached_property
    def values(self) -> dict[str, Any]:
        """Parameters and captures of mask and score, by name."""
        return {**self.bound.mask_values, **self.bound.score_values}

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.tensors["query"].device

    def plan(self, phase: Phase, config: Config) -> BlockPlan:
        """The user's plan where it has this tile or needs none, else one of this tile.

        The kernel of dK and dV takes it transposed, of which the kind may be another one. Gluon
        kernels have their bounds before they have rows: for bounds by rows they take a table.
        """

        def turned(plan: BlockPlan) -> BlockPlan:
            plan = plan.transposed() if phase in OF_KEYS else plan
            return plan.tabulated if config.language is Language.GLUON and plan.by_rows else plan

        given = self.bound.plan
        if given is not None:
            plan = turned(given)
            if plan.closed_form or plan.tile_shape == config.tile:
                return plan
            if given.device is not None:
                return turned(given.with_tile(config.tile))
        return turned(bind.find_plan(self.bound.mask, self.bound.lengths, config.tile))

    def spec(self, phase: Phase, plan: BlockPlan | None, config: Config) -> KernelSpec:
        """What a kernel of this call has in its text."""
        closed_form = None if plan is None else plan.closed_form
        mask = self.bound.mask
        score = score_of_kernel(self.bound, self.tensors["query"].dtype, phase in OF_KEYS)
        own = plan is not None and plan.tile_shape == config.tile
        # A Gluon program without any tile masks the pairs of one away.
        if own and phase in _BY_TILES and config.language is Language.TRITON:
            mask = mask if plan.needs_mask else None
        head_dim, value_dim = (self.tensors[n].shape[3] for n in ("query", "value"))
        return KernelSpec(
            mask if mask is None or mask.expr.op is not Op.CONST else None,
            score,
            closed_form,
            head_dim,
            value_dim,
            self.bound.clamped,
            self._wide(),
            closed_form is not None and heavy_last(closed_form),
            self.tensors["query"].shape[1] != self.tensors["key"].shape[1],
            frozenset(self.bound.learned),
            config.consumers,
        )

    def _wide(self) -> frozenset[Capture]:
        values = self.values
        programs = [p for p in (self.bound.mask, self.bound.score) if p is not None]
        captures = (c for p in programs for c in captures_of(p.expr))
        return frozenset(c for c in captures if values[c.name].numel() >= 2**31)


def run(phase: Phase, call: Call) -> None:
    """Run the kernel of `phase` with the first configuration that fits, remembered for such calls.

    Raises:
        BackendError: none fits the GPU.
    """
    reason = ""
    for config in candidates(phase, call, capability(call.device)):
        plan = None if phase in OF_ROWS else call.plan(phase, config)
        try:
            spec = call.spec(phase, plan, config)
            launch(kernel_of(phase, config.language, spec), call, plan, config)
        except OutOfResources as error:
            reason = str(error)
            continue
        _CHOSEN[_kind(phase, call)] = config
        return
    query, value = call.tensors["query"], call.tensors["value"]
    raise BackendError(
        f"no tile size fits this GPU for head dimensions {query.shape[3]} and {value.shape[3]}",
        why=reason,
        fix="backend='cpu', or a smaller head dimension",
    )


def candidates(phase: Phase, call: Call, gpu: int) -> tuple[Config, ...]:
    """The configurations to try for the kernel of `phase`; none that did not fit such a call.

    Args:
        gpu: what `capability` gives.
    """
    query, value = call.tensors["query"], call.tensors["value"]
    widest = max(query.shape[3], value.shape[3])
    score = None if call.bound.score is None else call.bound.score.expr
    found = configs(phase, gpu, widest, query.element_size(), score, hopper=call.hopper)
    chosen = _CHOSEN.get(_kind(phase, call))
    return found if chosen is None else found[found.index(chosen) :]


def _kind(phase: Phase, call: Call) -> tuple[Any, ...]:
    """Equal for calls whose kernels of `phase` fit a GPU alike."""
    query, value = call.tensors["query"], call.tensors["value"]
    expressions = tuple(p and p.expr for p in (call.bound.mask, call.bound.score))
    dims = query.shape[3], value.shape[3]
    learned, hopper = call.bound.learned, call.hopper
    return (phase, expressions, *dims, query.dtype, query.device, learned, hopper)


def reason_against_hopper(backend: str, gpu: int, q: Tensor, v: Tensor) -> str | None:
    """Why the portable kernels are taken and not a Hopper GPU's own; None where those are.

    Args:
        gpu: what `capability` gives.
    """
    if backend == "triton":
        return "backend='triton' was asked for"
    return reason_not_covered(gpu, _DTYPES.get(q.dtype, str(q.dtype)), q.shape[3], v.shape[3])


def takes_hopper(backend: str, gpu: int, q: Tensor, v: Tensor) -> bool:
    """Are a Hopper GPU's own kernels to be tried first?

    Args:
        gpu: what `capability` gives.

    Raises:
        BackendError: they were asked for, and do not cover the call.
    """
    reason = reason_against_hopper(backend, gpu, q, v)
    if reason is not None and backend == "hopper":
        raise BackendError(
            "backend 'hopper' does not cover this call",
            why=reason,
            fix="backend='auto', which takes the portable kernels then",
        )
    return reason is None


def kernel_of(phase: Phase, language: Language, spec: KernelSpec) -> Kernel:
    """The kernel of `phase` for `spec`, generated once."""
    key = (
        *(phase, language),
        *(p and p.expr for p in (spec.mask, spec.score)),
        *(spec.closed_form, spec.head_dim, spec.value_dim),
        *(spec.clamped, spec.wide, spec.heavy_last, spec.grouped, spec.learned, spec.consumers),
    )
    if key not in _KERNELS:
        _KERNELS[key] = GENERATORS[phase, language](spec)
    return _KERNELS[key]


def launch(kernel: Kernel, call: Call, plan: BlockPlan | None, config: Config) -> None:
    """Launch `kernel` with one program for each outer tile of `plan` and each of its heads.

    Without a plan, outer tiles are query tiles.

    Raises:
        OutOfResources: the configuration does not fit the GPU.
    """
    tensors = call.tensors
    reads_table = any(a.role is Role.TABLE for a in kernel.arguments)
    table = _device_table(plan, call) if plan is not None and reads_table else None
    arguments = [_argument(a, call, plan, table, config) for a in kernel.arguments]
    of_keys = plan is not None and plan.outer == "kv"
    axis = "kv_tiles" if of_keys else "q_tiles"
    if any(a.of == "diagonals" for a in kernel.arguments):
        axis = "diagonals"
    tiles = tile_counts(call.bound.lengths, config)[axis]
    batch, heads = tensors["d_key" if of_keys else "query"].shape[:2]
    with torch.cuda.device(call.device) if call.device.type == "cuda" else nullcontext():
        load(kernel)[(tiles * batch * heads,)](
            *arguments,
            **{name: config.constants[name] for name in kernel.constants},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )


def row_stride(q_len: int) -> int:
    """Numbers from one head's rows of lse_log2 and delta to the next's: whole 16 bytes."""
    return -(-q_len // 4) * 4


def tile_counts(lengths: bind.Lengths, config: Config) -> dict[str, int]:
    """How many tiles, and diagonals of tiles, a head has, by the name that kernels use."""
    q_tiles, kv_tiles = -(-lengths.q_len // config.block_m), -(-lengths.kv_len // config.block_n)
    return {"q_tiles": q_tiles, "kv_tiles": kv_tiles, "diagonals": q_tiles + kv_tiles - 1}


def _argument(
    argument: Argument,
    call: Call,
    plan: BlockPlan | None,
    table: DeviceTable | None,
    config: Config,
) -> Any:
    name, index = argument.of, argument.index
    match argument.role:
        case Role.DESCRIPTOR:
            return describe(call.tensors[name], config.rows(argument), index, config.language)
        case Role.ROWS:
            return call.rows[name]
        case Role.ROWS_DESCRIPTOR:
            return describe_flat(call.rows[name], config.rows(argument))
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
        case Role.SUMS:
            return call.sums[name]
        case Role.GRADIENT:
            return call.gradients[name]
        case Role.GRADIENT_STRIDE:
            return call.gradients[name].stride(index)
        case Role.TABLE if table is not None:
            return getattr(table, name)
        case Role.TABLE_STRIDE if plan is not None:
            return _table_stride(name, plan, call)
    raise InternalError(f"a kernel without a plan has the argument {argument.name}")


def _size(name: str, call: Call, config: Config) -> int:
    kv_heads = call.tensors["key"].shape[1]
    lengths = call.bound.lengths
    sizes = {"kv_heads": kv_heads, "group": lengths.heads // kv_heads}
    sizes["row_stride"] = row_stride(lengths.q_len)
    sizes |= tile_counts(lengths, config)
    return sizes[name] if name in sizes else int(getattr(lengths, name))


def _table_stride(axis: str, plan: BlockPlan, call: Call) -> int:
    """Rows of the run table from one batch ("b") or head ("h") to the next."""
    rows_of_head = plan.kv_tiles if plan.outer == "kv" else plan.q_tiles
    if axis == "h":
        return rows_of_head if plan.depends_on_head else 0
    heads = call.bound.lengths.heads if plan.depends_on_head else 1
    return rows_of_head * heads if plan.depends_on_batch else 0


@cache
def capability(device: torch.device) -> int:
    """90 for Hopper and so on; 0 for a GPU that is not NVIDIA's, and for the interpreter."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _device_table(plan: BlockPlan, call: Call) -> DeviceTable:
    """The plan's table on the device: made there for its kind, else uploaded once for a plan."""
    device = call.device
    if plan.device is not None:
        return device_plan.find_table(plan, call.bound, device)
    tables = _TABLES.setdefault(plan, {})
    if device not in tables:
        assert plan.table is not None
        # Kernels look at the end of the axis that they go along in masked runs only.
        of_queries = plan.outer == "q"
        length, tiles = (plan.kv_len, plan.kv_tiles) if of_queries else (plan.q_len, plan.q_tiles)
        cut = length % plan.tile_shape[1 if of_queries else 0] != 0
        tables[device] = to_device(plan.table, tiles, cut, device)
    return tables[device]
