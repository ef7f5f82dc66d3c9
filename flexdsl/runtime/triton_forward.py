"""Launch the generated forward kernel: choose tiles, get the plan and the kernel, pass arguments.

It runs on a GPU, and on the CPU under Triton's interpreter (TRITON_INTERPRET=1), which tests use.
A configuration for which the GPU has not enough shared memory or registers is followed by the next
one of the table; where none is left, that is an error.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.closed_form import ClosedForm
from flexdsl.codegen import Argument, Kernel, KernelSpec, Role, generate_forward, heavy_last
from flexdsl.errors import BackendError
from flexdsl.ir import Capture, Op, captures_of
from flexdsl.runtime import bind
from flexdsl.runtime.cache import load
from flexdsl.runtime.descriptors import aligned, describe, empty_aligned
from flexdsl.runtime.run_table import DeviceTable, to_device
from flexdsl.runtime.tuning import Config, forward_configs

LOG2E = 1.4426950408889634

_KERNELS: dict[tuple[Any, ...], Kernel] = {}
_CHOSEN: dict[tuple[Any, ...], Config] = {}
_TABLES: WeakKeyDictionary[BlockPlan, dict[torch.device, DeviceTable]] = WeakKeyDictionary()


def forward(
    bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, Lq, Dv] and float32 logsumexp [B, Hq, Lq] of a checked and bound call.

    Raises:
        BackendError: no configuration fits the GPU.
    """
    out = empty_aligned((*q.shape[:3], v.shape[3]), q)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    if out.numel() == 0 or k.shape[2] == 0:
        return out.zero_(), lse.fill_(-math.inf)
    if scale <= 0:  # the largest score times the scale must be the largest of all
        q, scale = (-q, -scale) if scale < 0 else (torch.zeros_like(q), 1.0)
    _Launch(bound, scale, aligned(q), aligned(k), aligned(v), out, lse).run()
    return out.contiguous(), lse


class _Launch:
    """One call on its way to the GPU."""

    def __init__(
        self,
        bound: bind.Bound,
        scale: float,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
    ) -> None:
        self.bound, self.scale, self.lse = bound, scale, lse
        self.tensors = {"query": q, "key": k, "value": v, "out": out}
        self.values = {**bound.mask_values, **bound.score_values}

    def run(self) -> None:
        """Launch with the first configuration that fits."""
        q, v = self.tensors["query"], self.tensors["value"]
        widest = max(q.shape[3], v.shape[3])
        expressions = tuple(p and p.expr for p in (self.bound.mask, self.bound.score))
        key = (expressions, q.shape[3], v.shape[3], q.dtype, q.device)
        configs = forward_configs(_capability(q.device), widest, q.element_size())
        if key in _CHOSEN:
            configs = configs[configs.index(_CHOSEN[key]) :]
        for config in configs:
            try:
                self._launch(config)
            except OutOfResources as error:
                reason = error
                continue
            _CHOSEN[key] = config
            return
        raise BackendError(
            f"no tile size fits this GPU for head dimensions {q.shape[3]} and {v.shape[3]}",
            why=str(reason),
            fix="backend='cpu', or a smaller head dimension",
        )

    def _launch(self, config: Config) -> None:
        q = self.tensors["query"]
        plan = self._plan(config)
        kernel = self._kernel(plan.closed_form)
        table = None if plan.closed_form is not None else _device_table(plan, q.device)
        tiles = -(-q.shape[2] // config.block_m)
        arguments = [self._argument(a, config, table, plan, tiles) for a in kernel.arguments]
        grid = (tiles * q.shape[0] * q.shape[1],)
        with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
            load(kernel)[grid](
                *arguments,
                BLOCK_M=config.block_m,
                BLOCK_N=config.block_n,
                num_warps=config.num_warps,
                num_stages=config.num_stages,
            )

    def _plan(self, config: Config) -> BlockPlan:
        """The user's plan where it has this tile or needs none, else one of this tile."""
        given = self.bound.plan
        if given is not None and (given.closed_form or given.tile_shape == config.tile):
            return given
        return bind.find_plan(self.bound.mask, self.bound.lengths, config.tile)

    def _kernel(self, closed_form: ClosedForm | None) -> Kernel:
        q, v = self.tensors["query"], self.tensors["value"]
        mask, score = self.bound.mask, self.bound.score
        spec = KernelSpec(
            mask if mask is None or mask.expr.op is not Op.CONST else None,
            score,
            closed_form,
            q.shape[3],
            v.shape[3],
            self.bound.clamped,
            self._wide(),
            closed_form is not None and heavy_last(closed_form),
        )
        key = (
            *(p and p.expr for p in (spec.mask, spec.score)),
            *(closed_form, spec.head_dim, spec.value_dim),
            *(spec.clamped, spec.wide, spec.heavy_last),
        )
        if key not in _KERNELS:
            _KERNELS[key] = generate_forward(spec)
        return _KERNELS[key]

    def _wide(self) -> frozenset[Capture]:
        programs = [p for p in (self.bound.mask, self.bound.score) if p is not None]
        captures = (c for p in programs for c in captures_of(p.expr))
        return frozenset(c for c in captures if self.values[c.name].numel() >= 2**31)

    def _argument(
        self,
        argument: Argument,
        config: Config,
        table: DeviceTable | None,
        plan: BlockPlan,
        tiles: int,
    ) -> Any:
        lengths = self.bound.lengths
        match argument.role:
            case Role.DESCRIPTOR:
                is_row = argument.of in ("query", "out")
                rows = config.block_m if is_row else config.block_n
                return describe(self.tensors[argument.of], rows, argument.index)
            case Role.ROWS:
                return self.lse
            case Role.SCALE:
                return self.scale * (LOG2E if self.bound.score is None else 1.0)
            case Role.SIZE:
                heads = lengths.heads
                group = heads // self.tensors["key"].shape[1]
                sizes = {"heads": heads, "group": group, "q_tiles": tiles}
                return sizes.get(argument.of) or getattr(lengths, argument.of)
            case Role.PARAMETER | Role.CAPTURE:
                return self.values[argument.of]
            case Role.LENGTH:
                return self.values[argument.of].shape[argument.index]
            case Role.STRIDE:
                return self.values[argument.of].stride(argument.index)
            case Role.TABLE:
                return getattr(table, argument.of)
            case Role.TABLE_STRIDE:
                rows_of_head = tiles if plan.depends_on_head else 0
                rows_of_batch = tiles * (lengths.heads if plan.depends_on_head else 1)
                by_axis = {"b": rows_of_batch if plan.depends_on_batch else 0, "h": rows_of_head}
                return by_axis[argument.of]


@cache
def _capability(device: torch.device) -> int:
    """90 for Hopper and so on; 0 for a GPU that is not NVIDIA's, and for the interpreter."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _device_table(plan: BlockPlan, device: torch.device) -> DeviceTable:
    """The plan's table on the device, uploaded once for a plan."""
    tables = _TABLES.setdefault(plan, {})
    if device not in tables:
        assert plan.table is not None
        cut = plan.kv_len % plan.tile_shape[1] != 0
        tables[device] = to_device(plan.table, plan.kv_tiles, cut, device)
    return tables[device]
