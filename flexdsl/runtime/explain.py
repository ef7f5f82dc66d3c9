"""`explain`: what `attention` would do with a call, and why, in words. Nothing is launched.

Every choice is asked of the function that makes it when attention runs: names of backends in
`validate.py`, plans in `bind.py`, kernels and their configurations in `launch.py`. Only words are
made here.
"""

from __future__ import annotations

from dataclasses import replace
from textwrap import indent
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.analysis.bounded import MOST
from flexdsl.analysis.derivative import describe_steps
from flexdsl.analysis.given import describe_given
from flexdsl.bundle.describe import in_words
from flexdsl.ir import Kind, print_expr
from flexdsl.runtime import bind, bundles, validate
from flexdsl.runtime.bundled import Bundled
from flexdsl.runtime.differences import explain_tables, with_tables
from flexdsl.runtime.eager import autocast, tile_of
from flexdsl.runtime.executors import cpu_plan
from flexdsl.runtime.low_rank import explain_factors
from flexdsl.runtime.triton_forward import steps_of

if TYPE_CHECKING:
    from flexdsl.codegen import KernelSpec, Phase
    from flexdsl.runtime.call import Call
    from flexdsl.runtime.tuning import Config


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any = None,
    score: Any = None,
    scale: float | None = None,
    q_offset: int = 0,
    backend: str = "auto",
) -> str:
    """Which kernels, plans and configurations `attention` would run this call with, and why.

    Captured tensors on a GPU are copied to the host, for the figures of their plan.

    Args:
        q, k, v: tensors as `attention` takes them; only shape, dtype, device and whether a gradient
            is asked for are looked at.
        mask, score, scale, q_offset, backend: as of `attention`.

    Returns:
        Lines of text: the backend and why it is not another, the plan, each kernel of the forward
        and of the backward pass with the configuration that is tried first, what becomes of the
        score modification, and which results may differ in their last bits from run to run.

    Raises:
        What `attention` raises for the same arguments before it computes anything.
    """
    q, k, v = autocast(q, k, v)
    validate.check_tensors(q, k, v)
    factor = validate.check_scale(scale, q.shape[3])
    offset = validate.check_q_offset(q_offset)
    chosen = validate.check_backend(backend, q)
    lengths = bind.lengths_of(q, k, offset)
    sources = bind.source_of(mask, Kind.MASK), bind.source_of(score, Kind.SCORE)
    reading = bind.read(*sources, lengths, q.device)
    head = [f"attention of q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}, {q.dtype}"]
    if chosen == "reference":
        return "\n".join([*head, _REFERENCE])
    learned = tuple(n for n, x in bind.captured(reading.score).items() if x.requires_grad)
    tile = tile_of(reading)
    bound = bind.bind(reading.mask, reading.score, lengths, tile, learned)
    if chosen == "cpu":
        return "\n".join([*head, *_of_cpu(bound)])
    from flexdsl.runtime.launch import capability

    return "\n".join([*head, *of_gpu(chosen, capability(q.device), bound, factor, q, k, v)])


_REFERENCE = """\
backend reference: dense float64, which asks the user's functions about every pair
  for comparisons; it has no plan, and its gradients are autograd's"""

_CPU_GRADIENTS = """\
backward: scores are computed again, piece by piece
  deterministic: threads have sums of their own, which are added in one order"""


def _of_cpu(bound: bind.Bound) -> list[str]:
    plan, threads = cpu_plan(bound), torch.get_num_threads()
    return [
        "backend cpu: torch's matrix products over live tiles; the tensors are on the CPU",
        indent(plan.explain(), "  "),
        f"forward: {_tiles(plan)}; pieces of the plan are spread over {threads} threads",
        _CPU_GRADIENTS,
        *_score(bound),
    ]


def of_gpu(
    backend: str, gpu: int, bound: bind.Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> list[str]:
    """The lines about a call by generated kernels.

    Args:
        backend: "triton", "hopper" or "auto".
        gpu: compute capability, 90 for Hopper; 0 for a GPU that is not NVIDIA's.
        bound, scale: the call.

    Raises:
        BackendError: the backend does not cover the call.
    """
    from flexdsl.codegen import Phase
    from flexdsl.runtime import launch
    from flexdsl.runtime.call import Call
    from flexdsl.runtime.passes import first_phases, prepared

    found = bundles.of_environment(bound, q, v) if backend == "auto" else None
    if found is not None:
        return _of_bundle(found)
    hopper = launch.takes_hopper(backend, gpu, q, v)
    against = launch.reason_against_hopper(backend, gpu, q, v)
    kernels = "a Hopper GPU's own kernels" if hopper else "portable kernels"
    lines = [f"backend {backend}: {kernels}" + (f", since {against}" if against else "")]
    if q.numel() == 0 or k.numel() == 0:
        return [*lines, "no kernel is launched: there is no pair"]
    tensors = {"query": q, "key": k, "value": v}
    compiling = launch.compiling_for(backend, gpu, q, v)
    given, steps = steps_of(compiling, replace(bound, learned=()), scale, tensors)
    few = len(steps) > 1
    calls = [Call(given, scale, tensors, {}, hopper=hopper, sizes=s.sizes) for s in steps]
    lines += _forward([step.phase for step in steps], calls, gpu)
    found = prepared(bound, scale, q.dtype, compiling, backward=True)
    call = Call(found, scale, tensors, {}, hopper=hopper)
    phases = (*first_phases(call.bound), *launch.phases_of(call))
    reason = launch.reason_against_hopper_backward(call) if hopper else None
    why = f" by portable kernels, since {reason}" if reason else ""
    lines.append(f"backward{why}:")
    for phase in phases:
        lines += _kernel(phase, call, gpu)
    lines += _order_of_sums(Phase.BACKWARD in phases, bound)
    rest = replace(bound, score=with_tables(replace(bound, learned=())).score)
    told = *explain_factors(rest, scale, q.dtype, few=few), *explain_tables(bound)
    return [*lines, *_score(bound), *(indent(line, "  ") for line in told)]


def _forward(phases: list[Phase], calls: list[Call], gpu: int) -> list[str]:
    """The plan of a call, and its forward pass.

    Args:
        phases: without those that run before.
        calls: of each of them.
    """
    from flexdsl.runtime.launch import candidates
    from flexdsl.runtime.passes import first_phases

    main, call = phases[0], calls[0]
    lines = [indent(call.plan(main, candidates(main, call, gpu)[0]).explain(), "  "), "forward:"]
    if len(phases) > 1:
        why = " by portable kernels, since it has few queries" if call.hopper else ""
        lines[-1] = f"forward{why}:"
    for phase in first_phases(call.bound):
        lines += _kernel(phase, call, gpu)
    for phase, call in zip(phases, calls, strict=True):
        lines += _kernel(phase, call, gpu)
    return lines


def _of_bundle(found: Bundled) -> list[str]:
    """The kernels of a bundle of FLEXDSL_BUNDLES."""
    lines = [
        f"backend auto: kernels of the bundle {found.bundle.folder}, which FLEXDSL_BUNDLES names;"
        " nothing is compiled",
        f"variant {found.variant.name} for {found.build.title}",
    ]
    return [*lines, *(f"  {code.phase}: {in_words(code)}" for code in found.build.kernels)]


def _kernel(phase: Phase, call: Call, gpu: int) -> list[str]:
    """A kernel, its first configuration, those after it, and its plan."""
    from flexdsl.runtime.call import OF_ROWS
    from flexdsl.runtime.launch import candidates

    config, *others = candidates(phase, call, gpu)
    lines = [f"  {phase.value}: {_words(config)}"]
    if phase not in OF_ROWS:
        plan = call.plan(phase, config)
        lines.append(f"    {_tiles(plan)}")
        lines += [f"    {line}" for line in _splits(call)]
        spec = call.spec(phase, plan, config)
        lines += [f"    {line}" for line in _mask(phase, call, plan, config, spec)]
        lines += [f"    {_BOUNDED}"] if spec.bounded else []
    lines += [f"    where that does not fit the GPU: {_words(other)}" for other in others]
    return lines


_BOUNDED = (
    f"its softmax has no running maximum: the score is within {MOST:.0f} of 0, whatever q and k are"
)


def _splits(call: Call) -> list[str]:
    """How a forward pass of few queries is split along the keys."""
    if "splits" not in call.sizes:
        return []
    packed, splits = call.sizes["packed"], call.sizes["splits"]
    heads = f"{packed} query heads share" if packed > 1 else "a query head has"
    parts = f"in {splits} parts, merged by the next kernel" if splits > 1 else "in one part"
    return [f"few queries: {heads} a program, and the keys are {parts}"]


def _mask(phase: Phase, call: Call, plan: BlockPlan, config: Config, spec: KernelSpec) -> list[str]:
    """How a kernel knows the mask of a tile, where there is a choice or no mask."""
    from flexdsl.codegen.hopper.module import GROUP_ROWS
    from flexdsl.codegen.hopper.row_bits import row_intervals
    from flexdsl.runtime.call import may_read_bits
    from flexdsl.runtime.mask_bits import bits_nbytes, mib, reason_against

    if spec.mask_bits:
        size = mib(bits_nbytes(plan))
        lines = [f"its mask is read as bits, which are written once for the plan: {size}"]
        own = call.own_tiles(phase, plan, config)
        if own is not None:
            part = f"{own.skipped} of {own.tiles} tiles of {GROUP_ROWS} rows in masked tiles"
            lines.append(f"its consumers skip {part}, which have no pair")
        return lines
    if spec.skips:
        own = f"{GROUP_ROWS} {'rows' if plan.outer == 'q' else 'keys'}"
        block = GROUP_ROWS, GROUP_ROWS
        live = f"{plan.with_tile(block).density:.1%} of {block[0]} x {block[1]} blocks are live"
        return [
            f"its consumers skip tiles that have no pair for their own {own}: captured tensors"
            f" choose blocks, and {live}",
            "its mask is evaluated in tiles of which they have a part",
        ]
    if spec.mask is None:
        return ["it has no mask: every pair of every live tile is allowed"]
    if may_read_bits(phase, config):
        if row_intervals(spec):
            return ["its masked tiles are masked by bits made of the ends of their rows"]
        return [f"its mask is evaluated in every masked tile: {reason_against(call.bound, plan)}"]
    return []


def _words(config: Config) -> str:
    height, width = config.tile
    how = f"{config.num_warps} warps, {config.num_stages} stages"
    return f"{config.language.value}, tile {height} x {width}, {how}"


def _tiles(plan: BlockPlan) -> str:
    height, width = plan.tile_shape
    reason = "" if plan.why_table is None else f"; no closed form: {plan.why_table.reason}"
    return f"plan {plan.kind}, {plan.density:.1%} of {height} x {width} tiles live{reason}"


def _order_of_sums(atomics: bool, bound: bind.Bound) -> list[str]:
    """Which gradients have the same bits in every run.

    Args:
        atomics: dQ is added up by atomic operations.
    """
    from flexdsl.runtime.call import loads_of

    if atomics:
        lines = [
            "  dK and dV are deterministic; dQ is added up by atomic operations: its last bits may"
            " vary,\n  but not under torch.use_deterministic_algorithms(True)"
        ]
    else:
        lines = ["  dQ, dK and dV are deterministic: added up in a fixed order"]
    for load in loads_of(bound):
        lines.append(f"  gradient of {load.capture} by {print_expr(load.node)}: ")
        lines[-1] += load.reduction.value
    return lines


def _score(bound: bind.Bound) -> list[str]:
    """What becomes of the score modification."""
    score = bound.score
    if score is None:
        return ["score: no modification; scale and log2(e) are one factor in the exponent"]
    lines = [f"score {score.name}, as kernels compute it: {print_expr(score.expr)}"]
    lines += [f"  {line}" for line in describe_given(bound.written, bound.mask)]
    steps = describe_steps(score)
    return [*lines, indent(steps, "  ")] if steps else lines
