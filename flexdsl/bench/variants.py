"""Every variant of the standard library beside the same attention without it.

    python -m flexdsl.bench.variants [--only NAME] [--quick] [--json FILE]

A mask is measured beside dense attention of its shape, by flexdsl as well: the speed-up has a
bound, all tiles / live tiles, in the tiles of the dense kernel. A kernel with smaller tiles, or one
that skips parts of them, may pass it. A score is measured beside its
mask alone, causal. Forward passes, in turns, in one process. All kernels are compiled first, by
several processes that share triton's cache. Nothing is asserted.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import flexdsl as fx
from flexdsl.analysis import BlockPlan
from flexdsl.bench.catalogue import DIM, QUICK, VARIANTS, Variant
from flexdsl.bench.machine import Machine, describe, find_machine
from flexdsl.bench.measure import brief
from flexdsl.bench.report import number, title
from flexdsl.ir import Kind
from flexdsl.runtime import bind

GOAL = 0.85  # of the bound


@dataclass(frozen=True)
class Figure:
    """What was measured of a variant; None where it was not, or could not be.

    Attributes:
        kind: "mask" or "score".
        shape: such as "B1 H16 N16384 D128".
        ms: median of its forward pass.
        beside_ms: of what it is measured beside: dense attention, or for a score its mask alone.
        tflops: 4 * D * allowed pairs in that time, in 1e12 per second.
        kernel: what ran: "hopper" or "portable" with its tile and, where a Hopper GPU's own
            kernels do not cover the call, why; "cpu".
        plan: its kind in that kernel.
        live, tiles: tiles of the dense kernel with a pair, and all tiles: of one head where all are
            alike.
        partial: part of the live tiles in which the mask is looked at.
        error: why figures are missing.
    """

    name: str
    kind: str = ""
    shape: str = ""
    ms: float | None = None
    beside_ms: float | None = None
    tflops: float | None = None
    kernel: str = ""
    plan: str = ""
    live: int | None = None
    tiles: int | None = None
    partial: float | None = None
    error: str | None = None

    @property
    def bound(self) -> float | None:
        """The speed-up that its live tiles allow; None for a score."""
        return self.tiles / self.live if self.tiles and self.live and self.kind == "mask" else None

    @property
    def speedup(self) -> float | None:
        """How many times as fast as what it is measured beside."""
        return self.beside_ms / self.ms if self.beside_ms and self.ms else None

    @property
    def share(self) -> float | None:
        """The part of the bound that is reached."""
        return self.speedup / self.bound if self.speedup and self.bound else None

    @property
    def cost(self) -> float | None:
        """What a score adds to the time of its mask alone, as a part of that."""
        return 1 / self.speedup - 1 if self.speedup and self.kind == "score" else None


@dataclass(frozen=True)
class Ready:
    """A variant with its tensors on a device.

    Attributes:
        mask, score: the variant is one of them; a score's mask is causal.
    """

    variant: Variant
    tensors: list[Tensor]
    mask: fx.Mod
    score: fx.Mod | None

    def call(self) -> Tensor:
        """The variant."""
        out: Tensor = fx.attention(*self.tensors, mask=self.mask, score=self.score)
        return out

    def beside(self) -> Tensor:
        """What it is measured beside."""
        mask = None if self.score is None else self.mask
        out: Tensor = fx.attention(*self.tensors, mask=mask)
        return out


def prepare(variant: Variant, machine: Machine) -> Ready:
    """A variant on a machine."""
    mod = variant.make(machine.device)
    is_mask = mod.kind.value == "mask"
    tensors = variant.tensors(machine.device, machine.dtype)
    return Ready(variant, tensors, mod if is_mask else fx.stdlib.causal(), None if is_mask else mod)


def measure(variant: Variant, machine: Machine, quick: bool) -> Figure:
    """Measure a variant. It does not raise for what the variant does: the figure has the error."""
    try:
        return _measured(prepare(variant, machine), machine, quick)
    except Exception as error:
        return Figure(variant.name, shape=str(variant), error=brief(error))
    finally:
        gc.collect()
        machine.free()


def _measured(ready: Ready, machine: Machine, quick: bool) -> Figure:
    variant = ready.variant
    calls = ready.call, ready.beside
    for call in calls:
        call()
    machine.synchronize()
    # In turns, so that a change of the clock's speed meets both.
    rounds = [[machine.milliseconds(c, quick) for c in calls] for _ in range(machine.rounds(quick))]
    ms, beside = (statistics.median(times) for times in zip(*rounds, strict=True))
    kernel, plan, tile = _kernel_and_plan(ready)
    kind, plan = plan.kind, plan if plan.tile_shape == tile else plan.with_tile(tile)
    # The plan tells only those heads and batches apart that its mask does.
    planned = plan.batch * plan.heads
    alike = variant.batch * variant.heads // planned
    return Figure(
        variant.name,
        "mask" if ready.score is None else "score",
        str(variant),
        ms,
        beside,
        4 * DIM * plan.pairs * alike / ms / 1e9,
        kernel,
        kind,
        plan.live_tiles,
        planned * plan.q_tiles * plan.kv_tiles,
        1 - plan.full_tiles / plan.live_tiles,
    )


def _kernel_and_plan(ready: Ready) -> tuple[str, BlockPlan, tuple[int, int]]:
    """The kernel that ran a call, in words, the plan that it had, and the dense kernel's tile."""
    q, k, v = ready.tensors
    lengths = bind.lengths_of(q, k, 0)
    sources = bind.source_of(ready.mask, Kind.MASK), bind.source_of(ready.score, Kind.SCORE)
    reading = bind.read(*sources, lengths, q.device)
    if q.device.type == "cpu":
        from flexdsl.runtime.slabs import TILE, tile_for

        return "cpu", bind.find_plan(reading.mask, lengths, tile_for(reading.mask, 0)), TILE
    from flexdsl.codegen import Language, Phase
    from flexdsl.runtime import launch
    from flexdsl.runtime.call import Call

    gpu = launch.capability(q.device)
    tensors = {"query": q, "key": k, "value": v}
    hopper = launch.takes_hopper("auto", gpu, q, v)
    both = (reading.mask, reading.score), (None, None)
    bound = (bind.bind(*mods, lengths, (0, 0)) for mods in both)
    call, dense = (Call(b, DIM**-0.5, tensors, {}, hopper=hopper) for b in bound)
    # The first candidate is the one that was launched: what did not fit is no candidate any more.
    config, of_dense = (launch.candidates(Phase.FORWARD, c, gpu)[0] for c in (call, dense))
    words, plan = f"{config.block_m}x{config.block_n}", call.plan(Phase.FORWARD, config)
    if config.language is Language.GLUON:
        return f"hopper {words}", plan, of_dense.tile
    against = launch.reason_against_hopper("auto", gpu, q, v) or "no other fits the GPU"
    return f"portable {words}, since {against}", plan, of_dense.tile


def compile_ahead(names: Sequence[str], processes: int) -> None:
    """Fill triton's cache with the kernels of variants, several at a time.

    An error here will be met again, and reported, when the variant is measured.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for done in [pool.submit(_compile, name) for name in names]:
            with suppress(Exception):
                done.result()


def _compile(name: str) -> None:
    """Call a variant once, and what it is measured beside."""
    machine = find_machine("cuda")
    ready = prepare(VARIANTS[name], machine)
    ready.call()
    ready.beside()
    machine.synchronize()
    del ready
    machine.free()


def table(figures: Sequence[Figure]) -> str:
    """Lines of text: masks with their share of the bound, then scores with their cost."""

    def cell(value: float | None, form: Callable[[float], str] = number) -> str:
        return "" if value is None else form(value)

    percent = partial("{:.1%}".format)
    lines = [
        f"{'variant':24}{'ms':>8}{'beside':>8}{'faster':>8}{'bound':>7}{'share':>8}{'cost':>8}"
        f"{'TFLOP/s':>9}{'partial':>9}  plan         kernel, shape"
    ]
    for f in sorted(figures, key=lambda f: f.kind != "mask"):
        lines.append(
            f"{f.name:24}{cell(f.ms):>8}{cell(f.beside_ms):>8}{cell(f.speedup):>8}"
            f"{cell(f.bound):>7}{cell(f.share, percent):>8}{cell(f.cost, percent):>8}"
            f"{cell(f.tflops):>9}{cell(f.partial, percent):>9}  {f.plan:12} {f.kernel}, {f.shape}"
            + (f"  {f.error}" if f.error else "")
        )
    shares = [f.share for f in figures if f.share is not None]
    reached = sum(s >= GOAL for s in shares)
    return "\n".join([*lines, f"{reached} of {len(shares)} masks reach {GOAL:.0%} of their bound"])


def write_json(path: Path, figures: Sequence[Figure], about: dict[str, Any]) -> None:
    """All figures: {"machine", "rows"}."""
    derived = ("bound", "speedup", "share", "cost")
    rows = [asdict(f) | {name: getattr(f, name) for name in derived} for f in figures]
    document = {"machine": about, "rows": rows}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(VARIANTS)), help="This variant.")
@click.option("--quick", is_flag=True, help=f"{len(QUICK)} variants alone, in shorter runs.")
@click.option("--json", "path", type=click.Path(path_type=Path, dir_okay=False, writable=True))
@click.option(
    "--processes", type=click.IntRange(1), help="That compile. [default: one for each core]"
)
def main(only: tuple[str, ...], quick: bool, path: Path | None, processes: int | None) -> None:
    """Measure the standard library's masks and scores on a GPU, forward, at 16384 tokens."""
    if not torch.cuda.is_available():
        raise click.ClickException("variants are measured on a GPU, and torch finds none here")
    machine, chosen = find_machine("cuda"), only or (QUICK if quick else [*VARIANTS])
    about = describe(machine)
    click.echo(title(about))
    compile_ahead(chosen, min(processes or os.cpu_count() or 1, len(chosen)))
    figures = []
    for name in chosen:
        click.echo(name, err=True)
        figures.append(measure(VARIANTS[name], machine, quick))
        if path is not None:
            write_json(path, figures, about)
    click.echo(table(figures))


if __name__ == "__main__":
    main()
