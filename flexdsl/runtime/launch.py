"""Launch a generated kernel: pass it the arguments that it lists, with a configuration that fits.

It runs on a GPU, and on the CPU under Triton's interpreter (TRITON_INTERPRET=1), which tests use.
A configuration for which the GPU has not enough shared memory or registers is followed by the next
one of the table; where none is left, that is an error. Which kernel, plan and tensors: the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.products import width_of
from flexdsl.codegen import (
    Kernel,
    KernelSpec,
    Language,
    Phase,
    backward_phases,
    backward_reason,
    reason_not_covered,
)
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.errors import BackendError
from flexdsl.runtime import device_plan
from flexdsl.runtime.blocks import Blocks
from flexdsl.runtime.cache import load
from flexdsl.runtime.call import (
    DTYPES,
    OF_ROWS,
    Call,
    grid_of,
    loads_of,
    programs_of,
    value_of,
)
from flexdsl.runtime.call_table import table_of
from flexdsl.runtime.compiled import launch_of_compiled
from flexdsl.runtime.descriptors import describe
from flexdsl.runtime.interpreted import multiply_bfloat16
from flexdsl.runtime.narrow_tiles import narrow_configs
from flexdsl.runtime.replay import Launch
from flexdsl.runtime.splits import Splits, find_splits, packed_heads, rows_of
from flexdsl.runtime.tuning import Config, configs

_KERNELS: dict[tuple[Any, ...], Kernel] = {}
# Configurations that did not fit a GPU, by kinds of calls.
_TOO_LARGE: set[tuple[Any, ...]] = set()


@dataclass(frozen=True)
class Compiling:
    """Kernels that are generated and compiled as a call needs them.

    Attributes:
        hopper: those in Gluon are to be tried first.
        may_split: a forward pass of few queries may be split along the keys.
    """

    hopper: bool
    may_split: bool
    compiles: ClassVar[bool] = True  # for what a call has

    def run(self, phase: Phase, call: Call) -> Launch | None:
        """Run the kernel of `phase`; what does so for another call of its kind, if possible."""
        return run(phase, call)

    def backward_phases(self, call: Call) -> tuple[Phase, ...]:
        """The kernels of the backward pass, in the order in which they run."""
        return phases_of(call)

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        """There are kernels before which any others run."""
        return True

    def splits(self, call: Call) -> Splits | None:
        """How a forward pass is split along the keys; None where the ordinary kernel runs."""
        return _splits_of(call) if self.may_split else None


def compiling(backend: str, q: Tensor, v: Tensor) -> Compiling:
    """The kernels that `backend` ("triton", "hopper" or "auto") has for such tensors.

    Raises:
        BackendError: a Hopper GPU's own were asked for, and do not cover the call.
    """
    return compiling_for(backend, capability(q.device), q, v)


def compiling_for(backend: str, gpu: int, q: Tensor, v: Tensor) -> Compiling:
    """Those of a GPU for which `capability` gives `gpu`.

    A Hopper GPU's own kernels have no splits: who asks for them has the ordinary forward kernel.
    """
    return Compiling(takes_hopper(backend, gpu, q, v), may_split=backend != "hopper")


def _splits_of(call: Call) -> Splits | None:
    packed = packed_heads(call)
    if packed == 0:
        return None
    call = replace(call, sizes={"packed": packed})
    found = candidates(Phase.FORWARD_SPLIT, call, capability(call.device))
    return find_splits(call, call.plan(Phase.FORWARD_SPLIT, found[0]), packed) if found else None


def run(phase: Phase, call: Call) -> Launch | None:
    """Run the kernel of `phase` with the first configuration that fits, remembered for such calls.

    Returns:
        What does the same for another call of its kind, where that is possible.

    Raises:
        BackendError: none fits the GPU.
    """
    reason = ""
    for config in candidates(phase, call, capability(call.device)):
        plan = None if phase in OF_ROWS else call.plan(phase, config)
        try:
            spec = call.spec(phase, plan, config)
            again = launch(phase, kernel_of(phase, config.language, spec), call, plan, config)
        except OutOfResources as error:
            reason = str(error)
            _TOO_LARGE.add((*_kind(phase, call), config))
            continue
        return again
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
    mods = (p and p.expr for p in (call.bound.mask, call.bound.score))
    found = configs(phase, gpu, widest, query.element_size(), *mods, hopper=call.hopper)
    if phase is Phase.FORWARD_SPLIT:
        rows = rows_of(call.bound.lengths.q_len, call.sizes["packed"])
        found = tuple(replace(c, block_m=rows) for c in found)
    if phase is Phase.FORWARD and call.hopper:
        found = tuple(dict.fromkeys((*narrow_configs(call, widest, found[0]), *found)))
    kind = _kind(phase, call)
    return tuple(c for c in found if (*kind, c) not in _TOO_LARGE)


def _kind(phase: Phase, call: Call) -> tuple[Any, ...]:
    """Equal for calls whose kernels of `phase` fit a GPU alike."""
    query, value = call.tensors["query"], call.tensors["value"]
    expressions = tuple(p and p.expr for p in (call.bound.mask, call.bound.score))
    dims = query.shape[3], value.shape[3]
    bound, hopper = call.bound, call.hopper
    of_mods = expressions, bound.products, bound.tables, bound.learned
    return (phase, *of_mods, *dims, query.dtype, query.device, hopper)


def reason_against_hopper(backend: str, gpu: int, q: Tensor, v: Tensor) -> str | None:
    """Why the portable kernels are taken and not a Hopper GPU's own; None where those are.

    Args:
        gpu: what `capability` gives.
    """
    if backend == "triton":
        return "backend='triton' was asked for"
    return reason_not_covered(gpu, DTYPES.get(q.dtype, str(q.dtype)), q.shape[3], v.shape[3])


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


def phases_of(call: Call) -> tuple[Phase, ...]:
    """The kernels of a call's backward pass, in the order in which they run."""
    hopper = call.hopper and reason_against_hopper_backward(call) is None
    return backward_phases(loads_of(call.bound), hopper=hopper)


def reason_against_hopper_backward(call: Call) -> str | None:
    """Why the backward pass of a call takes the portable kernels where its forward does not."""
    q, learned = call.tensors["query"], loads_of(call.bound)
    deterministic = torch.are_deterministic_algorithms_enabled()
    rows = math.prod(q.shape[:3])
    columns = width_of(call.bound.products)
    return backward_reason(q.shape[3], rows, learned, deterministic, columns)


def kernel_of(phase: Phase, language: Language, spec: KernelSpec) -> Kernel:
    """The kernel of `phase` for `spec`, generated once."""
    key = (
        *(phase, language),
        *(p and p.expr for p in (spec.mask, spec.score)),
        *(spec.closed_form, spec.head_dim, spec.value_dim),
        *(spec.clamped, spec.wide, spec.grouped, spec.learned, spec.consumers),
        *(spec.products, spec.tables, spec.mask_bits, spec.skips, spec.bounded),
    )
    if key not in _KERNELS:
        _KERNELS[key] = GENERATORS[phase, language](spec)
    return _KERNELS[key]


def launch(
    phase: Phase, kernel: Kernel, call: Call, plan: BlockPlan | None, config: Config
) -> Launch | None:
    """Launch `kernel` with one program for each outer tile of `plan` and each of its heads.

    Without a plan, outer tiles are query tiles.

    Returns:
        What does the same for another call of its kind, where that is possible.

    Raises:
        OutOfResources: the configuration does not fit the GPU.
    """
    table = table_of(kernel.arguments, plan, call, device_plan.launch_compiled)
    values = [value_of(a, call, plan, table, config) for a in kernel.arguments]
    arguments = [describe(v, config.language) if isinstance(v, Blocks) else v for v in values]
    programs = programs_of(phase, kernel.arguments, call, config)
    on_gpu = call.device.type == "cuda"
    if not on_gpu:
        multiply_bfloat16()
    # A GPU warns nobody of numbers too large for a float, which pairs that do not count may have.
    with torch.cuda.device(call.device) if on_gpu else np.errstate(all="ignore"):
        compiled = load(kernel)[(grid_of(programs, kernel.arguments, call.device),)](
            *arguments,
            **{name: config.constants[name] for name in kernel.constants},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    if not on_gpu:
        return None
    assert call.device.index is not None
    return launch_of_compiled(compiled, kernel, values, programs, call.device.index, call.places)


@cache
def capability(device: torch.device) -> int:
    """90 for Hopper and so on; 0 for a GPU that is not NVIDIA's, and for the interpreter."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
