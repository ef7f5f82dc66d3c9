"""What a call costs the host: microseconds until it returns, and in a row with others.

    python -m flexdsl.bench.host [--tokens N] [--heads N] [--device cpu]

Short calls wait for Python, not for the GPU. Of each way to call attention: `returns`, until the
call is back while the GPU still works; `each`, the time of one of many calls in a row, the wait for
the GPU at their end included. Nothing is asserted. Without a GPU both have the work itself in them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor

import flexdsl as fx
from flexdsl.aot import build
from flexdsl.bench.machine import Machine, describe, find_machine
from flexdsl.bench.report import title
from flexdsl.bench.short import in_a_row
from flexdsl.bench.workloads import Shape

ROUNDS = 50
LENGTHS = (512, 1024, 2048)
DIM = 128
WINDOW = "mask window(window: int = 256) = q >= kv and q - kv < window"

Ways = dict[str, Callable[..., Tensor]]


@dataclass(frozen=True)
class Figure:
    """One way to call attention, at one length.

    Attributes:
        phase: "forward", "with graph" (forward, for a backward pass) or "backward".
        returns, each: medians, in microseconds.
    """

    name: str
    tokens: int
    phase: str
    returns: float
    each: float


def ways(tokens: int, heads: int, device: torch.device) -> Ways:
    """flexdsl with masks of every way to a plan, and SDPA, as functions of q, k and v."""
    documents = torch.arange(tokens, device=device) // (tokens // 4)
    slopes = torch.linspace(0.5, 0.1, heads, device=device)
    causal, packed = fx.stdlib.causal(), fx.stdlib.causal() & fx.stdlib.document(documents)
    alibi = fx.score_mod(lambda s, b, h, q, kv: s + slopes[h] * (kv - q))
    return {
        "sdpa": F.scaled_dot_product_attention,
        "sdpa causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "flexdsl": lambda q, k, v: fx.attention(q, k, v),
        "flexdsl causal": lambda q, k, v: fx.attention(q, k, v, mask=causal),
        "flexdsl window": lambda q, k, v: fx.attention(q, k, v, mask=WINDOW),
        "flexdsl documents": lambda q, k, v: fx.attention(q, k, v, mask=packed),
        "flexdsl alibi": lambda q, k, v: fx.attention(q, k, v, mask=causal, score=alibi),
    }


def of_bundle(folder: Path, device: torch.device) -> Ways:
    """`fx.load` of a window that is built now, for the GPU that is here."""
    major, minor = torch.cuda.get_device_capability(device)
    target = f"cuda:{10 * major + minor}"
    build(fx.variant("window", mask=WINDOW), out=folder, target=target, head_dims=[DIM])
    loaded: Any = fx.load(folder)
    return {
        "fx.load window": loaded,
        "fx.load window=n": lambda q, k, v: loaded(q, k, v, window=99),
    }


def measure(
    name: str, call: Callable[..., Tensor], machine: Machine, tokens: int, heads: int
) -> Iterator[Figure]:
    """The figures of one way, phase by phase."""
    tensors = Shape(1, heads, heads, tokens, DIM).tensors(machine.device, machine.dtype)
    q, k, v, d_out = tensors
    yield _timed(name, "forward", lambda: call(q, k, v), machine, tokens)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    yield _timed(name, "with graph", lambda: call(*leaves), machine, tokens)
    out = call(*leaves)

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, leaves, d_out, retain_graph=True)

    yield _timed(name, "backward", backward, machine, tokens)


def _timed(name: str, phase: str, call: Callable[[], Any], machine: Machine, tokens: int) -> Figure:
    return Figure(name, tokens, phase, *in_a_row(call, machine, ROUNDS))


def table(figures: list[Figure]) -> str:
    """Lines of text: a row for each way, length and phase."""
    head = f"{'':20}{'tokens':>8}  {'phase':12}{'returns us':>12}{'each us':>10}"
    rows = [
        f"{f.name:20}{f.tokens:8}  {f.phase:12}{f.returns:12.1f}{f.each:10.1f}" for f in figures
    ]
    return "\n".join([head, *rows])


@click.command()
@click.option("--tokens", multiple=True, type=click.IntRange(4), help="A length; repeat it.")
@click.option("--heads", type=click.IntRange(1, 16), default=16, show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="[default: a GPU if here]")
def main(tokens: tuple[int, ...], heads: int, device: str | None) -> None:
    """Measure what calls of attention cost the host, beside torch's."""
    machine = find_machine(device)
    click.echo(title(describe(machine)))
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        built = {} if machine.device.type == "cpu" else of_bundle(Path(folder), machine.device)
        for length in tokens or LENGTHS:
            for name, call in (ways(length, heads, machine.device) | built).items():
                figures += measure(name, call, machine, length, heads)
    click.echo(table(figures))


if __name__ == "__main__":
    main()
