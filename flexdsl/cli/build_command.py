"""`flexdsl build`: a bundle of machine code for GPUs that need not be here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from flexdsl.cli.spec import HELP, read_variant


def _dims(text: str) -> tuple[int, int]:
    """A head dimension as users write it: D, or D/Dv."""
    from flexdsl.errors import ArgumentError

    first, _, second = text.partition("/")
    if not first.isdigit() or (second and not second.isdigit()):
        raise ArgumentError(f"the head dimension is {text!r}", fix="128, or 192/128 for D and Dv")
    return int(first), int(second or first)


@click.command(
    "build",
    help="Compile attention for GPUs that need not be here, into a folder that needs no compiler."
    f"\n{HELP}",
)
@click.argument("specs", nargs=-1, required=True, metavar="SPEC...")
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="The folder.")
@click.option("--target", multiple=True, help="A GPU, such as cuda:90; repeat it for more.")
@click.option("--dtype", multiple=True, help="bf16, fp16 or fp32; repeat it for more.")
@click.option("--head-dim", multiple=True, metavar="D[/Dv]", help="Repeat it for more.")
@click.option(
    "--phase",
    multiple=True,
    help="forward, backward or decode; the first two where it is not given.",
)
@click.option("--name", help="Of the bundle.  [default: that of the folder]")
@click.option("--jobs", type=click.IntRange(1), help="Processes.  [default: one for each core]")
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 where a build would.")
def command(
    specs: Sequence[str],
    out: Path,
    target: Sequence[str],
    dtype: Sequence[str],
    head_dim: Sequence[str],
    phase: Sequence[str],
    name: str | None,
    jobs: int | None,
    check: bool,
) -> None:
    """Build, or compare with what is there."""
    from flexdsl.aot import build
    from flexdsl.aot.build import PHASES

    begin = time.perf_counter()
    made = _with_progress(
        build,
        [read_variant(s) for s in specs],
        out=out,
        target=target or ("cuda:90",),
        dtypes=dtype or ("bf16",),
        head_dims=[_dims(d) for d in head_dim] or [128],
        phases=phase or PHASES,
        name=name,
        jobs=jobs,
        write=not check,
    )
    if check:
        _check(made)
        return
    seconds = time.perf_counter() - begin
    size = sum(map(len, made.files.values()))
    if not made.changed:
        click.echo(f"{out} is up to date: {made.reused} kernels, nothing was compiled")
        return
    click.echo(
        f"{out}: {made.compiled} kernels compiled, {made.reused} were there, {size / 1024:.0f} KiB,"
        f" {seconds:.1f} s"
    )


def _with_progress(build: Any, variants: list[Any], **options: Any) -> Any:
    """`build` with a bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    parts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*parts, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("kernels", total=None)

        def say(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return build(variants, progress=say, **options)


def _check(made: Any) -> None:
    """Print what a build would change; exit code 1 where there is something."""
    from flexdsl.aot.check import differences

    lines = differences(made.folder, made.files)
    if not lines:
        click.echo(f"{made.folder} is what would be built")
        return
    click.echo("\n".join(lines))
    raise SystemExit(1)
