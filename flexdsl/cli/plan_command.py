"""`flexdsl plan`: draw the proven block plan of a mask, and say how it was found."""

from __future__ import annotations

import time
from pathlib import Path

import click

from flexdsl.cli.spec import HELP, read_spec
from flexdsl.plans import plan


@click.command("plan", help=f"Draw the block plan of a mask.\n{HELP}")
@click.argument("spec")
@click.option("--q-len", type=click.IntRange(1), default=2048, show_default=True, help="Queries.")
@click.option("--kv-len", type=click.IntRange(1), help="Keys.  [default: as many as queries]")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batches.")
@click.option("--heads", type=click.IntRange(1), default=1, show_default=True, help="Query heads.")
@click.option(
    "--tile",
    type=(click.IntRange(1), click.IntRange(1)),
    default=(128, 128),
    show_default=True,
    metavar="ROWS KEYS",
    help="Shape of a tile.",
)
@click.option("--q-offset", type=int, default=0, show_default=True, help="Position of query 0.")
@click.option("--plot", type=click.Path(path_type=Path), help="Also write a picture to this file.")
def command(
    spec: str,
    q_len: int,
    kv_len: int | None,
    batch: int,
    heads: int,
    tile: tuple[int, int],
    q_offset: int,
    plot: Path | None,
) -> None:
    """Make the plan and print it."""
    mod = read_spec(spec)
    begin = time.perf_counter()
    made = plan(
        mod,
        q_len,
        kv_len or q_len,
        batch=batch,
        heads=heads,
        tile=tile,
        q_offset=q_offset,
    )
    milliseconds = (time.perf_counter() - begin) * 1000
    click.echo(mod.text)
    click.echo(str(made))
    click.echo(made.explain())
    click.echo(f"found in {milliseconds:.1f} ms")
    if plot is not None:
        made.plot(plot)
        click.echo(f"picture: {plot}")
