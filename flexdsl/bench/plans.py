"""How long plans take, how large they are, and how both grow with the length; one CPU core.

    python -m flexdsl.bench.plans [--json FILE] [--plot FILE] [--device cuda]

Masks of every way to a plan at 16384 to 1048576 tokens and tiles of 128 x 128: milliseconds of the
processor, bytes of the table, and peak memory while it is made; and by which power of the length
time and bytes grow. Nothing is asserted, and no kernel of attention runs. With a device it is the
planner there that is measured (`device_plans.py`).

Peak bytes are all that is allocated at once: the table itself and what is still sorted or joined,
but not what the mask captures. A large table takes 1.5 to 4 times its own bytes, and so does that
of its transpose. A small one, and a closed form whose ends each row loads, takes what is looked at
together, 12288 positions, 4096 rows or 2048 boxes of a few numbers each: up to 1.25 MB, whatever
the length is. Extremes of what a mask captures, four times as large as that, come on top where they
are asked for.
"""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import flexdsl as fx
from flexdsl.bench.device_plans import measure_on, table_of_device
from flexdsl.bench.machine import describe, find_machine
from flexdsl.bench.report import check_picture

LENGTHS = (1 << 14, 1 << 16, 1 << 18, 1 << 20)
HEADS = 8  # of masks that differ by head
REPEATS = 7
SCHEMA = 1  # of the JSON


@dataclass(frozen=True)
class Figure:
    """One plan.

    Attributes:
        seconds: of the processor, the least of several times.
        first_seconds: the same of the first plan of a mask like this, whose nodes, linear forms
            and proofs are not remembered yet; measured once.
        nbytes: of its table.
        peak: bytes that were allocated at once while it was made.
    """

    name: str
    tokens: int
    kind: str
    seconds: float
    first_seconds: float
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


def strided_blocks(b: Any, h: Any, q: Any, kv: Any) -> Any:
    """The latest 16 blocks of 64 tokens, and every 8th one before, shifted from head to head."""
    i, j = q // 64, kv // 64
    return q >= kv and (i - j < 16 or (j + h) % 8 == 0)


def documents(tokens: int) -> Callable[..., Any]:
    """Packed documents of 256 tokens on average, 4096 in a million, causal, by their ids."""
    ids = _ids(tokens)
    return lambda b, h, q, kv: ids[q] == ids[kv] and q >= kv


def document_starts(tokens: int) -> Callable[..., Any]:
    """The same by the start of each document."""
    ids = _ids(tokens)
    start = torch.searchsorted(ids, ids).int()
    return lambda b, h, q, kv: start[q] <= kv <= q


def shared_prefix(tokens: int) -> Callable[..., Any]:
    """Answers of 2048 tokens to one prompt, which is stored once before them."""
    return fx.stdlib.shared_prefix([2048] * (tokens // 2048), [0] * (tokens // 2048))


def ragged_prefixes(tokens: int) -> Callable[..., Any]:
    """The packed documents, three of four of which continue the one before these three."""
    lengths = torch.unique_consecutive(_ids(tokens), return_counts=True)[1].tolist()
    return fx.stdlib.shared_prefix(lengths, [n // 4 * 4 for n in range(len(lengths))])


def windows_2d(tokens: int) -> Callable[..., Any]:
    """Swin's windows of 7 x 7 tokens of a square, as large as fits, in row-major order."""
    side = int(tokens**0.5) // 7 * 7
    return fx.stdlib.window_2d((side, side), 7)


def elastic_windows(tokens: int) -> Callable[..., Any]:
    """MoA's windows of each head, of 5 to 50 % of the length beside 64 sinks."""
    spans = fx.stdlib.moa_spans(np.linspace(0, 1024, HEADS), np.linspace(0.05, 0.5, HEADS), tokens)
    sinks, local = (torch.from_numpy(x) for x in spans)
    return lambda b, h, q, kv: q >= kv and (kv // 64 < sinks[h] or q // 64 - kv // 64 < local[h])


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
    "elastic windows": elastic_windows,
    "document starts": document_starts,
    "documents": documents,
    "shared prefix": shared_prefix,
    "ragged prefixes": ragged_prefixes,
    "2-D neighbourhood": neighbourhood,
    "2-D windows": windows_2d,
    "3-D tiles": sliding_tiles,
    "dilated window": lambda n: lambda b, h, q, kv: (q - kv) % 5 == 0 and abs(q - kv) <= 1000,
    "stride": lambda n: lambda b, h, q, kv: q >= kv and (q - kv) % 512 == 0,
    "blocks at a stride": lambda n: strided_blocks,
}


def measure(name: str, tokens: int, repeats: int = REPEATS) -> Figure:
    """Make the plan of one mask of `MASKS` and measure it."""
    mask = fx.mask_mod(MASKS[name](tokens))
    _ = mask.program  # reading the function is no part of planning
    times = []
    for _ in range(1 + repeats):
        start = time.process_time()
        plan = fx.plan(mask, tokens, tokens, heads=HEADS)
        times.append(time.process_time() - start)
    tracemalloc.start()
    plan = fx.plan(mask, tokens, tokens, heads=HEADS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Figure(name, tokens, plan.kind, min(times[1:]), times[0], plan.nbytes, peak)


@dataclass(frozen=True)
class Growth:
    """By which powers of the length the plans of a mask grow, from its shortest to its longest.

    Attributes:
        seconds, nbytes: slopes of least squares in logarithms; None of a plan without a table.
    """

    name: str
    seconds: float
    nbytes: float | None


def growth(figures: list[Figure]) -> list[Growth]:
    """The growth of each mask that was measured at two lengths or more."""
    found = []
    for name in dict.fromkeys(f.name for f in figures):
        rows = [f for f in figures if f.name == name]
        if len(rows) > 1:
            nbytes = _power(rows, "nbytes") if all(f.nbytes for f in rows) else None
            found.append(Growth(name, _power(rows, "seconds"), nbytes))
    return found


def _power(rows: list[Figure], what: str) -> float:
    tokens, values = (np.log([getattr(f, n) for f in rows]) for n in ("tokens", what))
    return float(np.polyfit(tokens, values, 1)[0])


def table(figures: list[Figure]) -> str:
    """Lines of text: a row for each mask and length, and one for the growth of each mask."""
    head = (
        f"{'mask':20}{'tokens':>9}  {'kind':12}{'ms':>9}{'first ms':>10}{'bytes':>10}"
        f"{'peak bytes':>12}"
    )
    rows = [
        f"{f.name:20}{f.tokens:9}  {f.kind:12}{1e3 * f.seconds:9.2f}{1e3 * f.first_seconds:10.2f}"
        f"{f.nbytes:10}{f.peak:12}"
        for f in figures
    ]
    grown = [
        f"{g.name}: time grows as tokens^{g.seconds:.2f}"
        + ("" if g.nbytes is None else f", bytes as tokens^{g.nbytes:.2f}")
        for g in growth(figures)
    ]
    return "\n".join([head, *rows, *grown])


def write_json(path: Path, figures: list[Figure]) -> None:
    """All figures: {"schema", "machine", "figures", "growth"}."""
    document = {
        "schema": SCHEMA,
        "machine": describe(find_machine("cpu")),
        "figures": [asdict(f) for f in figures],
        "growth": [asdict(g) for g in growth(figures)],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def plot(path: Path, figures: list[Figure]) -> None:
    """Milliseconds and bytes against the length, both axes logarithmic.

    Raises:
        ArgumentError: matplotlib is not installed, or the ending of `path` is no picture's.
    """
    check_picture(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(12, 6.5), layout="constrained")
    FigureCanvasAgg(picture)
    left, right = picture.subplots(1, 2)
    powers = {g.name: g.seconds for g in growth(figures)}
    for k, name in enumerate(dict.fromkeys(f.name for f in figures)):
        rows = [f for f in figures if f.name == name]
        tokens = [f.tokens for f in rows]
        style = {
            "color": f"C{k % 10}",
            "linestyle": "-" if rows[-1].kind == "closed-form" else "--",
            "marker": ".x+"[k // 10 % 3],
        }
        label = f"{name}: tokens^{powers[name]:.2f}" if name in powers else name
        left.loglog(tokens, [1e3 * f.seconds for f in rows], label=label, **style)
        if rows[-1].nbytes:
            right.loglog(tokens, [f.nbytes for f in rows], **style)
    left.set(xlabel="tokens", ylabel="ms to plan", title="time (dashed: a table)")
    right.set(xlabel="tokens", ylabel="bytes", title="table of runs")
    picture.legend(loc="outside lower center", ncols=4, fontsize=8)
    picture.savefig(path, dpi=150)


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(MASKS)), help="This mask.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--plot", "plot_path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--device", help="Where plans of documents are made by kernels instead: cuda.")
def main(
    only: tuple[str, ...], json_path: Path | None, plot_path: Path | None, device: str | None
) -> None:
    """Measure how long plans take at four lengths."""
    if device is not None:
        click.echo(table_of_device([measure_on(device, n) for n in LENGTHS]))
        return
    if plot_path is not None:
        check_picture(plot_path)
    figures = [measure(name, tokens) for name in only or MASKS for tokens in LENGTHS]
    click.echo(table(figures))
    if json_path is not None:
        write_json(json_path, figures)
    if plot_path is not None:
        plot(plot_path, figures)


if __name__ == "__main__":
    main()
