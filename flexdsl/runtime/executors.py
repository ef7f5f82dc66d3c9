"""The executors behind the operator, by name: a forward and a backward pass each.

    forward(bound, scale, q, k, v) -> out, lse
    backward(bound, scale, (q, k, v), out, lse, d_out, d_lse) -> gradients of q, k, v and, in the
        order of `bound.learned`, of captured tensors; contiguous, of their shapes and dtypes

A `bound` is for one kind of call (`remembered.py`): what a GPU's executor found out for it once,
it keeps there.

On a GPU, "triton" has portable kernels alone, "hopper" must have a Hopper GPU's own, and "auto"
takes those where they cover the call, and kernels of bundles before either; "bundle:DIGEST" has
those of one bundle alone. None knows of autograd. Triton is imported when first used.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.runtime import bundles, cpu, cpu_backward, triton_backward, triton_forward
from flexdsl.runtime.bind import Bound, find_plan
from flexdsl.runtime.blocks import ALIGNMENT
from flexdsl.runtime.bundled import Bundled
from flexdsl.runtime.passes import Kernels
from flexdsl.runtime.problem import Problem
from flexdsl.runtime.slabs import tile_for

Inputs = tuple[Tensor, Tensor, Tensor]
_MOST_PASSES = 16  # of one kind of call


@dataclass(frozen=True)
class Executor:
    """Two functions with the signatures above."""

    forward: Callable[[Bound, float, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    backward: Callable[..., Sequence[Tensor]]


def cpu_plan(bound: Bound) -> BlockPlan:
    """The plan that a call on the CPU runs: the user's, or one of the executor's own tiles.

    Found once for a kind of call.
    """
    if bound.plan is not None:
        return bound.plan
    if bound.passes.plan is None:
        tile = tile_for(bound.mask, bound.lengths.q_offset)
        bound.passes.plan = find_plan(bound.mask, bound.lengths, tile)
    return bound.passes.plan


def _problem(bound: Bound, scale: float) -> Problem:
    values, plan = (bound.mask_values, bound.score_values), cpu_plan(bound)
    offset = bound.lengths.q_offset
    return Problem(bound.mask, bound.score, *values, plan, scale, offset, bound.learned)


def _cpu_forward(
    bound: Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    out, lse = cpu.forward(cpu.workspace(_problem(bound, scale), q, k, v))
    return out.reshape(*q.shape[:3], v.shape[3]), lse.reshape(q.shape[:3])


def _cpu_backward(
    bound: Bound,
    scale: float,
    inputs: Inputs,
    out: Tensor,
    lse: Tensor,
    d_out: Tensor | None,
    d_lse: Tensor | None,
) -> list[Tensor]:
    space = cpu.workspace(_problem(bound, scale), *inputs)
    with torch.no_grad():
        sums = cpu_backward.backward(space, lse, d_out, d_lse)
    return _fitted(bound, inputs, (sums.q, sums.k, sums.v, *sums.captures.values()))


def _gpu_forward(
    backend: str, bound: Bound, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    run = bound.passes.forward
    if run is None:
        kernels = _kernels(backend, bound, q, v)
        run = bound.passes.forward = triton_forward.forward(kernels, bound, scale, q, k, v)
    out, lse = run(q, k, v)
    return out, lse


def _gpu_backward(
    backend: str,
    bound: Bound,
    scale: float,
    inputs: Inputs,
    out: Tensor,
    lse: Tensor,
    d_out: Tensor | None,
    d_lse: Tensor | None,
) -> Sequence[Tensor]:
    d_out = torch.zeros_like(out) if d_out is None else d_out
    given = (*inputs, out, d_out, lse) if d_lse is None else (*inputs, out, d_out, lse, d_lse)
    # Hooks of autograd may have laid out anew what it kept, and d_out lies as its maker likes.
    key = (
        torch._C._get_deterministic_algorithms(),
        tuple([x.is_contiguous() or x.stride() for x in given]),
        tuple([x.data_ptr() % ALIGNMENT for x in given]),
    )
    run = bound.passes.backward.get(key)
    return run(*given) if run is not None else _first_backward(backend, bound, scale, key, given)


def _first_backward(
    backend: str, bound: Bound, scale: float, key: Hashable, given: tuple[Tensor, ...]
) -> Sequence[Tensor]:
    """Gradients by the first pass of its kind, and how the next ones run."""
    run = _prepare_backward(backend, bound, scale, given)
    gradients = run(*given)
    fitted = _fitted(bound, given, gradients)
    passes = bound.passes.backward
    if len(passes) >= _MOST_PASSES:
        passes.clear()
    lies_so = all(x is y for x, y in zip(gradients, fitted, strict=True))
    passes[key] = run if lies_so else lambda *given: _fitted(bound, given, run(*given))
    return fitted


def _fitted(bound: Bound, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of q, k, v and what is learned, contiguous and in their shapes and dtypes."""
    likes = *inputs[:3], *(bound.score_values[name] for name in bound.learned)
    return [_like(x, g) for x, g in zip(likes, gradients, strict=True)]


def _like(x: Tensor, gradient: Tensor) -> Tensor:
    if gradient.dtype is x.dtype and gradient.is_same_size(x) and gradient.is_contiguous():
        return gradient
    return gradient.reshape(x.shape).to(x.dtype).contiguous()


def _prepare_backward(
    backend: str, bound: Bound, scale: float, given: tuple[Tensor, ...]
) -> triton_backward.Backward:
    q, _, v, *_ = given
    kernels = _kernels(backend, bound, q, v)
    if not isinstance(kernels, Bundled):
        return triton_backward.backward(kernels, bound, scale, *given)
    # It adds up the gradients that it was built with.
    of_build = replace(bound, learned=kernels.learned(bound.learned))
    run = triton_backward.backward(kernels, of_build, scale, *given)
    if of_build.learned == bound.learned:
        return run

    def backward(*given: Tensor) -> list[Tensor]:
        of_q, of_k, of_v, *rest = run(*given)
        by_name = dict(zip(of_build.learned, rest, strict=True))
        return [of_q, of_k, of_v, *(by_name[name] for name in bound.learned)]

    return backward


def _kernels(backend: str, bound: Bound, q: Tensor, v: Tensor) -> Kernels:
    """Where the kernels of a call come from: a bundle, or a compiler."""
    if backend.startswith(bundles.PREFIX):
        return bundles.of_backend(backend, bound, q, v)
    if backend == "auto":
        found = bundles.of_environment(bound, q, v)
        if found is not None:
            return found
    else:
        bundles.refuse_compiling(backend)
    from flexdsl.runtime.launch import compiling

    return compiling(backend, q, v)


def _gpu(backend: str) -> Executor:
    return Executor(partial(_gpu_forward, backend), partial(_gpu_backward, backend))


EXECUTORS = {
    "cpu": Executor(_cpu_forward, _cpu_backward),
    **{name: _gpu(name) for name in ("triton", "hopper", "auto")},
}


def executor(backend: str) -> Executor:
    """The executor of that name: one of `EXECUTORS`, or "bundle:DIGEST"."""
    return EXECUTORS[backend] if backend in EXECUTORS else _gpu(backend)
