"""`flexdsl bench`: the named workloads, by flexdsl and by its peers, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.command("bench")
@click.option(
    "--only", multiple=True, metavar="NAME", help="This workload, or 'short_*'; repeat it."
)
@click.option("--peers", metavar="A,B", help="Beside flexdsl: flex, cudnn, flash, sdpa, eager.")
@click.option(
    "--phase",
    type=click.Choice(["forward", "backward", "both"]),
    default="both",
    show_default=True,
    help="What is timed.",
)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="[default: a GPU if here]")
@click.option("--tokens", type=click.IntRange(1), help="A length instead of each workload's own.")
@click.option("--quick", is_flag=True, help="Shorter runs; on the CPU, no measure of memory.")
@click.option("--json", "json_path", type=_FILE, help="Also write all figures to this file.")
@click.option("--plot", "plot_path", type=_FILE, help="Also write a picture (.png, .svg, .pdf).")
def command(
    only: tuple[str, ...],
    peers: str | None,
    phase: str,
    device: str | None,
    tokens: int | None,
    quick: bool,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Measure flexdsl beside torch's attention: time, cold start, plan, memory.

    On a GPU the workloads are measured in bfloat16 beside FlexAttention and SDPA; without one, in
    smaller shapes and float32 beside SDPA on the CPU. A workload that fails shows its error.
    """
    from flexdsl.bench.machine import describe, find_machine
    from flexdsl.bench.measure import Settings
    from flexdsl.bench.peers import choose
    from flexdsl.bench.workloads import select

    machine = find_machine(device)
    workloads = select(only, machine.device)
    names = None if peers is None else [p.strip() for p in peers.split(",") if p.strip()]
    chosen = choose(names, machine.device)
    _check_files(json_path, plot_path)
    settings = Settings(phase != "backward", phase != "forward", quick, tokens)
    about = describe(machine)
    rows = _measured(workloads, chosen, settings, machine, about, json_path)
    _show(rows, about)
    if plot_path is not None:
        from flexdsl.bench.report import plot

        plot(plot_path, rows, about)
    for kind, path in (("figures", json_path), ("picture", plot_path)):
        if path is not None:
            click.echo(f"{kind}: {path}")


def _check_files(json_path: Path | None, plot_path: Path | None) -> None:
    """Raise before minutes of work, not after them, where a result cannot be written."""
    from flexdsl.bench.report import check_picture
    from flexdsl.errors import ArgumentError

    for path in (json_path, plot_path):
        if path is not None and not path.absolute().parent.is_dir():
            raise ArgumentError(f"there is no folder {path.parent}", fix="one that exists")
    if plot_path is not None:
        check_picture(plot_path)


def _measured(
    workloads: list[Any],
    peers: list[Any],
    settings: Any,
    machine: Any,
    about: dict[str, Any],
    json_path: Path | None,
) -> list[Any]:
    """The rows of all workloads; those so far are in the file whenever a workload is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from flexdsl.bench.measure import measure, warm_up
    from flexdsl.bench.report import write_json

    parts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    rows: list[Any] = []
    # On stderr, so that the table alone can be sent to a file.
    with Progress(*parts, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading", total=len(workloads))
        warm_up(peers, machine)
        for workload in workloads:

            def say(text: str, name: str = workload.name) -> None:
                progress.update(task, description=f"{name}: {text}")

            rows += measure(workload, peers, settings, machine, say)
            progress.advance(task)
            if json_path is not None:
                write_json(json_path, rows, about, settings)
    return rows


def _show(rows: list[Any], about: dict[str, Any]) -> None:
    from rich.console import Console

    from flexdsl.bench.report import table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140  # a file has no width, and rows should not be folded
    console.print(table(rows, about))
