"""The kernels of a training step in a process without Triton's interpreter; print facts as JSON.

Usage: python -m tests.runtime.ahead_child NAME [SECONDS]

NAME is one of `CASES`, compiled for a Hopper GPU that is not there: triton has a driver that loads
and launches nothing, and numbers are not looked at. Or it is "gpu", a step on a real one. SECONDS
are those in which a kernel is there that triton has in its cache. With a ! after it, the process
ends while threads compile.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

import flexdsl as fx
from flexdsl.runtime import ahead, launch, machine, triton_backward, triton_forward
from tests.codegen.text_on_numbers import bound_of
from tests.codegen.variants import CAUSAL, HEADS, Variant

LENGTH, DIM = 300, 64
TABLE = torch.linspace(-1, 1, HEADS * 601).reshape(HEADS, 601).requires_grad_()
WAVES = fx.score_mod(lambda s, b, h, q, kv: s + TABLE[h, 300 + q - kv] + fx.cos(0.3 * (q - kv)))
CASES = {
    "causal": Variant(CAUSAL),
    "tables": Variant(CAUSAL, WAVES),
}
# Of each kernel that triton was asked for: its name, the thread, and whether its cache had it.
Compiled = list[tuple[str, str, bool]]


class Stub:
    """A GPU that is told of and does nothing."""

    utils = SimpleNamespace(
        get_device_properties=lambda _: {"max_shared_mem": 227 * 1024},
        load_binary=lambda *_: (1, 1, 0, 0, 1024),
    )

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def launcher_cls(self, *_: Any) -> Any:
        return lambda *_: None


@contextmanager
def stubbed() -> Iterator[None]:
    """Tensors in the host's memory are taken for some on a Hopper GPU."""
    driver.set_active(Stub())
    with ExitStack() as stack:
        for of, name, value in (
            (launch, "capability", lambda _: 90),
            (torch.cuda, "device", lambda _: nullcontext()),
            (machine, "MACHINE", SimpleNamespace(multiprocessors=lambda _: 132)),
        ):
            stack.enter_context(patch.object(of, name, value))
        yield


def step(name: str, compiled: Compiled, *, leaves: bool = False) -> dict[str, Any]:
    """Both passes; how many kernels triton has before them, and how many it is at.

    Args:
        leaves: there are no passes after all.
    """
    q, k, v = (torch.randn(1, HEADS, LENGTH, DIM).bfloat16() for _ in range(3))
    bound = bound_of(CASES[name], (q, k, v), 0)
    forward, call = replace(bound, learned=()), (0.1, q, k, v)
    coming = ahead.compile_step(launch.Compiling(True, may_split=True), forward, bound, *call)
    had = len(compiled)
    if leaves:
        return {"had": had, "coming": len(coming)}
    kernels = launch.Compiling(True, may_split=True)
    out, lse = triton_forward.forward(kernels, forward, *call)(q, k, v)
    for kernel in coming:
        kernel.result()
    # As a layer after attention may leave it: heads last.
    d_out = out.transpose(1, 2).contiguous().transpose(1, 2)
    given = q, k, v, out, d_out, lse
    triton_backward.backward(kernels, bound, 0.1, *given)(*given)
    return {"had": had, "coming": len(coming)}


def on_gpu() -> dict[str, Any]:
    """A step by `attention`; the largest differences from dense attention in float64."""
    options = {"device": "cuda", "dtype": torch.bfloat16}
    leaves = [torch.randn(1, HEADS, LENGTH, DIM, **options).requires_grad_() for _ in range(3)]
    d_out = torch.randn(1, HEADS, LENGTH, DIM, **options)
    found = torch.autograd.grad(fx.attention(*leaves, mask=CAUSAL), leaves, d_out)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    out = torch.nn.functional.scaled_dot_product_attention(*exact, is_causal=True)
    wanted = torch.autograd.grad(out, exact, d_out.double())
    return {"errors": [float((x - y).abs().max()) for x, y in zip(found, wanted, strict=True)]}


def main(name: str) -> dict[str, Any]:
    """What was compiled for a step, and the facts of it."""
    compiled: Compiled = []

    def listen(*, src: Any, cache_hit: bool, **_: Any) -> None:
        compiled.append((src.name, threading.current_thread().name, cache_hit))

    triton.knobs.compilation.listener = listen
    if name == "gpu":
        facts = on_gpu()
    else:
        with stubbed():
            facts = step(name.removesuffix("!"), compiled, leaves=name.endswith("!"))
    return {**facts, "compiled": compiled}


if __name__ == "__main__":
    if len(sys.argv) > 2:
        ahead._CACHED = float(sys.argv[2])
    print(json.dumps(main(sys.argv[1])))
