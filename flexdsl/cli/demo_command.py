"""`flexdsl demo`: a mask from Python to numbers, on a machine without a GPU.

It measures on the machine it runs on and says of each figure what was measured.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import click

import flexdsl as fx

WINDOW = 256
SINKS = 4
LONG = 1_048_576
TARGET = "cuda:90"


def streaming(b: int, h: int, q: int, kv: int) -> bool:
    """A window of recent keys, and the first few for ever."""
    return q >= kv and (q - kv < WINDOW or kv < SINKS)


@click.command("demo")
def command() -> None:
    """Write a mask, prove its plan, draw it, run it, and compile it for a GPU that is not here."""
    from rich.console import Console

    console = Console(highlight=False)
    mask = fx.mask_mod(streaming)
    _title(console, "1. A mask is a Python function")
    console.print(inspect.getsource(streaming), markup=False)
    console.print(f"As flexdsl reads it:\n  {mask.text}", markup=False)

    _title(console, "2. Which tiles it needs is proven, not evaluated")
    console.print(str(fx.plan(mask, 2048, 2048)), markup=False)
    plan, seconds = _timed(lambda: fx.plan(mask, LONG, LONG), repeat=3)
    console.print(
        f"The plan of {LONG:,} x {LONG:,} tokens: {plan.kind}, {plan.nbytes} bytes of table, "
        f"{seconds * 1000:.1f} ms (best of 3)",
        markup=False,
        soft_wrap=True,
    )

    _title(console, "3. It runs on this machine, and agrees with the definition")
    console.print(_comparison(mask))

    _title(console, "4. It compiles for a GPU that is not here")
    console.print(_compiled(mask), markup=False, soft_wrap=True)


def _title(console: Any, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def _timed(call: Callable[[], Any], repeat: int) -> tuple[Any, float]:
    """The last result of `call`, and the seconds of its fastest run."""
    fastest = float("inf")
    for _ in range(repeat):
        begin = time.perf_counter()
        result = call()
        fastest = min(fastest, time.perf_counter() - begin)
    return result, fastest


def _comparison(mask: fx.Mod) -> Any:
    """A table: error against the dense float64 reference, and time beside torch's dense mask."""
    import torch
    from rich.table import Table

    torch.manual_seed(0)
    attention: Callable[..., torch.Tensor] = fx.attention
    short = [torch.randn(1, 1, 384, 64) for _ in range(3)]
    out = attention(*short, mask=mask)
    error = (out - attention(*short, mask=mask, backend="reference")).abs().max().item()

    length = 4096
    long = [torch.randn(1, 4, length, 64) for _ in range(3)]
    dense = torch.from_numpy(fx.plan(mask, length, length).to_dense(tokens=True))[0, 0]
    sdpa: Callable[..., torch.Tensor] = torch.nn.functional.scaled_dot_product_attention
    expected, of_torch = _timed(lambda: sdpa(*long, attn_mask=dense), repeat=3)
    found, of_flexdsl = _timed(lambda: attention(*long, mask=mask), repeat=3)
    difference = (found - expected).abs().max().item()

    table = Table("measured", "value")
    table.add_row("largest error, 1 head x 384 tokens, against dense float64", f"{error:.1e}")
    table.add_row("largest difference, 4 heads x 4096 tokens, to torch", f"{difference:.1e}")
    table.add_row("flexdsl on the CPU, best of 3", f"{of_flexdsl * 1000:.1f} ms")
    table.add_row("torch SDPA with the dense mask, best of 3", f"{of_torch * 1000:.1f} ms")
    table.add_row("torch / flexdsl", f"{of_torch / of_flexdsl:.1f} x")
    return table


def _compiled(mask: fx.Mod) -> str:
    from flexdsl.aot import compile_kernel
    from flexdsl.codegen import Language

    made, seconds = _timed(lambda: compile_kernel(mask, target=TARGET, head_dim=128), repeat=1)
    lines = made.kernel.source.count("\n")
    stage = "hopper" if made.kernel.language is Language.GLUON else "triton"
    return (
        f"{TARGET}, bf16, head dimension 128: {lines} lines of generated source, "
        f"{len(made.machine_code)} bytes of machine code, compiled or found in Triton's cache in "
        f"{seconds:.1f} s\n"
        f"To read them: flexdsl show --stage {stage} '{mask.text}'"
    )
