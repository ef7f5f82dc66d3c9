"""How long plans take, how large they are, and how both grow with the length; one CPU core.

    python -m flexdsl.bench.plans [--plot FILE] [--device cuda]

Masks of every way to a plan at 16384 to 1048576 tokens and tiles of 128 x 128: milliseconds, bytes
of the table, and peak memory while it is made. Nothing is asserted, and no kernel of attention
runs. With a device it is the planner there that is measured (`device_plans.py`).

Peak bytes are all that is allocated at once: the table itself and what is still sorted or joined,
but not what the mask captures. A large table takes 1.5 to 4 times its own bytes, and so does that
of its transpose. A small one takes what is looked at together, 8192 positions or 2048 boxes of a
few numbers each: up to 1 MB, whatever the length is. Extremes of what a mask captures, four times
as large as that, come on top where they are asked for.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import flexdsl as fx
from flexdsl.bench.device_plans import measure_on, table_of_device
from flexdsl.bench.report import check_picture

LENGTHS = (1 << 14, 1 << 16, 1 << 18, 1 << 20)
REPEATS = 5


@dataclass(frozen=True)
class Figure:
    """One plan.

    Attributes:
        seconds: the least of several times. After the first plan of a mask its nodes, linear forms
            and proofs are remembered, so that a first one takes longer.
        nbytes: of its table.
        peak: bytes that were allocated at once while it was made.
    """

    name: str
    tokens: int
    kind: str
    seconds: float
    nbytes: int
    peak: int


def block_diffusion(tokens: int) -> Callable[..., Any]:
    """Half of the tokens noised, half clean, in blocks of 32."""
    half = tokens // 2

    def mask(b: Any, h: Any, q: Any, kv: Any) -> Any:
        noised_q, noised_kv = q < half, kv < half
        of_q, of_kv = q % half // 32, kv % half // 32
        return (
            (of_q == of_kv and noised_q == noised_kv)
            or (of_q > of_kv and noised_q and not noised_kv)
            or (of_q >= of_kv and not noised_q and not noised_kv)
        )

    return mask


def neighbourhood(tokens: int) -> Callable[..., Any]:
    """13 x 13 tokens of a square in row-major order."""
    side = int(tokens**0.5)

    def near(x: Any, y: Any) -> Any:
        return abs(fx.minimum(fx.maximum(x, 6), side - 7) - y) <= 6

    return lambda b, h, q, kv: near(q // side, kv // side) and near(q % side, kv % side)


def sliding_tiles(tokens: int) -> Callable[..., Any]:
    """3 x 3 x 3 tiles of 128 tokens around one's own, in tile-major order."""
    wide = 16
    high = max(1, int((tokens / 128 / wide) ** 0.5))

    def mask(b: Any, h: Any, q: Any, kv: Any) -> Any:
        i, j = q // 128, kv // 128
        deep = abs(i // (wide * high) - j // (wide * high)) <= 1
        return (
            deep and abs(i // wide % high - j // wide % high) <= 1 and abs(i % wide - j % wide) <= 1
        )

    return mask


def documents(tokens: int) -> Callable[..., Any]:
    """Packed documents of 256 tokens on average, 4096 in a million, causal, by their ids."""
    ids = _ids(tokens)
    return lambda b, h, q, kv: ids[q] == ids[kv] and q >= kv


def document_starts(tokens: int) -> Callable[..., Any]:
    """The same by the start of each document."""
    ids = _ids(tokens)
    start = torch.searchsorted(ids, ids).int()
    return lambda b, h, q, kv: start[q] <= kv <= q


def _ids(tokens: int) -> torch.Tensor:
    cuts = np.random.default_rng(0).choice(tokens - 1, tokens // 256 - 1, replace=False) + 1
    return torch.from_numpy(np.cumsum(np.bincount(cuts, minlength=tokens))).int()


MASKS: dict[str, Callable[[int], Callable[..., Any]]] = {
    "causal": lambda n: lambda b, h, q, kv: q >= kv,
    "window": lambda n: lambda b, h, q, kv: q >= kv and q - kv < 1024,
    "sinks + window": lambda n: lambda b, h, q, kv: q >= kv and (kv < 4 or q - kv < 1024),
    "prefix-LM": lambda n: lambda b, h, q, kv: q >= kv or kv < 1024,
    "chunks": lambda n: lambda b, h, q, kv: q // 1000 == kv // 1000 and q >= kv,
    "block diffusion": block_diffusion,
    "document starts": document_starts,
    "documents": documents,
    "2-D neighbourhood": neighbourhood,
    "3-D tiles": sliding_tiles,
    "dilated window": lambda n: lambda b, h, q, kv: (q - kv) % 5 == 0 and abs(q - kv) <= 1000,
}


def measure(name: str, tokens: int, repeats: int = REPEATS) -> Figure:
    """Make the plan of one mask of `MASKS` and measure it."""
    mask = fx.mask_mod(MASKS[name](tokens))
    _ = mask.program  # reading the function is no part of planning
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        plan = fx.plan(mask, tokens, tokens)
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    plan = fx.plan(mask, tokens, tokens)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Figure(name, tokens, plan.kind, min(times), plan.nbytes, peak)


def table(figures: list[Figure]) -> str:
    """Lines of text: a row for each mask and length."""
    head = f"{'mask':20}{'tokens':>9}  {'kind':12}{'ms':>9}{'bytes':>10}{'peak bytes':>12}"
    return "\n".join(
        [head]
        + [
            f"{f.name:20}{f.tokens:9}  {f.kind:12}{1e3 * f.seconds:9.2f}{f.nbytes:10}{f.peak:12}"
            for f in figures
        ]
    )


def plot(path: Path, figures: list[Figure]) -> None:
    """Milliseconds and bytes against the length, both axes logarithmic.

    Raises:
        ArgumentError: matplotlib is not installed, or the ending of `path` is no picture's.
    """
    check_picture(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(picture)
    left, right = picture.subplots(1, 2)
    for name in dict.fromkeys(f.name for f in figures):
        rows = [f for f in figures if f.name == name]
        tokens = [f.tokens for f in rows]
        style = "-" if rows[-1].kind == "closed-form" else "--"
        left.loglog(tokens, [1e3 * f.seconds for f in rows], style, marker=".", label=name)
        if rows[-1].nbytes:
            right.loglog(tokens, [f.nbytes for f in rows], style, marker=".", label=name)
    left.set(xlabel="tokens", ylabel="ms to plan", title="time (dashed: a table)")
    right.set(xlabel="tokens", ylabel="bytes", title="table of runs")
    left.legend(fontsize=8)
    picture.savefig(path, dpi=150)


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(MASKS)), help="This mask.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--device", help="Where plans of documents are made by kernels instead: cuda.")
def main(only: tuple[str, ...], plot_path: Path | None, device: str | None) -> None:
    """Measure how long plans take at four lengths."""
    if device is not None:
        click.echo(table_of_device([measure_on(device, n) for n in LENGTHS]))
        return
    if plot_path is not None:
        check_picture(plot_path)
    figures = [measure(name, tokens) for name in only or MASKS for tokens in LENGTHS]
    click.echo(table(figures))
    if plot_path is not None:
        plot(plot_path, figures)


if __name__ == "__main__":
    main()
