"""The kernels of a forward pass and of the backward pass that follows, compiled side by side.

A kernel is compiled where it is first launched: those of a training step one after the other.
Triton's compiler holds Python's lock for a part of its time only. So where a kind of call is met
whose gradients are wanted, both passes run once by kernels that threads compile and nobody
launches; what the passes allocate is dropped. Forward kernels are waited for here, those of the
backward pass where it first runs (`executors.py`).

Which kernels those are, and for what arguments, is not worked out a second time. What a backward
pass needs beside them, as where a configuration does not fit the GPU, is compiled when it runs.
Nothing is begun where triton has the forward kernels in its cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from flexdsl.codegen import Phase
from flexdsl.runtime import launch, triton_backward, triton_forward
from flexdsl.runtime.bind import Bound
from flexdsl.runtime.call import Call
from flexdsl.runtime.launch import Compiling

_CACHED = 0.1  # seconds: a kernel from triton's cache takes 0.01, and to compile one 0.3 or more


class _Unawaited(triton.AsyncCompileMode):
    """Triton's mode of compiling in threads, each kernel once, that does not wait at its end."""

    def __exit__(self, *error: object) -> None:
        self.raw_futures.clear()
        super().__exit__(*error)


@dataclass(frozen=True)
class _Ahead(Compiling):
    """Kernels that are compiled in threads, and not launched.

    Attributes:
        mode: triton's, for those of both passes.
        coming: what waits for each that was not there.
    """

    mode: _Unawaited
    coming: list[Any] = field(default_factory=list[Any])

    def run(self, phase: Phase, call: Call) -> None:
        """Begin to compile the kernel of `phase`."""
        found = launch.compile_first(phase, call, self.mode)
        if isinstance(found, triton.FutureKernel):
            self.coming.append(found)


@cache
def _threads() -> ThreadPoolExecutor:
    """They end what they have begun before the interpreter exits."""
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), "flexdsl-compile")


def compile_step(
    kernels: Compiling,
    forward: Bound,
    backward: Bound,
    scale: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Sequence[Any]:
    """Compile the kernels of a forward pass, and begin to compile those of its backward pass.

    Args:
        kernels: those that the passes have.
        forward, backward: the call, as each pass has it.
        scale, q, k, v: of the call.

    Returns:
        What has a method `result` each, which waits for a kernel of the backward pass.
    """
    try:
        with torch.no_grad():
            return _compile(kernels, forward, backward, scale, q, k, v)
    except Exception:  # such as no memory: what else is wrong, the passes themselves will meet
        return ()


def _compile(
    kernels: Compiling,
    forward: Bound,
    backward: Bound,
    scale: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Sequence[Any]:
    mode = _Unawaited(_threads())
    first, then = (_Ahead(kernels.hopper, kernels.may_split, mode) for _ in range(2))
    out, lse = triton_forward.forward(first, forward, scale, q, k, v)(q, k, v)
    if wait([kernel.future for kernel in first.coming], _CACHED).not_done:
        # Of the gradient of the output only its kind counts, which is that of the output.
        given = q, k, v, out, out, lse
        triton_backward.backward(then, backward, scale, *given)(*given)
    for kernel in first.coming:
        kernel.result()
    return then.coming
