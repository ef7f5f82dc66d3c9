"""`flexdsl verify`: check a mod on drawn calls of attention, and say what was checked."""

from __future__ import annotations

import click

from flexdsl.cli.spec import HELP, read_spec, read_variant
from flexdsl.errors import VerificationError


@click.command("verify", help=f"Check a mod against the definition on drawn cases.\n{HELP}")
@click.argument("spec")
@click.option(
    "--examples", type=click.IntRange(1), default=100, show_default=True, help="Cases to draw."
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "triton", "hopper", "cpu", "reference"]),
    default="auto",
    show_default=True,
    help="What is compared with dense float64 attention.",
)
@click.option("--mask", metavar="SPEC", help="Mask that a score modification is used under.")
@click.option("--q-len", type=click.IntRange(1), help="Exactly so many queries.")
@click.option("--kv-len", type=click.IntRange(1), help="Exactly so many keys.")
@click.option("--heads", type=click.IntRange(1), help="Exactly so many query heads.")
@click.option("--numerics", is_flag=True, help="Also errors against float64, beside SDPA's.")
@click.pass_context
def command(
    context: click.Context,
    spec: str,
    examples: int,
    backend: str,
    mask: str | None,
    q_len: int | None,
    kv_len: int | None,
    heads: int | None,
    numerics: bool,
) -> None:
    """Print the report; exit code 1 and the smallest failing case where a check fails."""
    from flexdsl.testing import verify

    mod = read_variant(spec)
    under = None if mask is None else read_spec(mask)
    sizes = {"q_len": q_len, "kv_len": kv_len, "heads": heads}
    try:
        report = verify(
            mod, mask=under, examples=examples, backend=backend, numerics=numerics, **sizes
        )
    except VerificationError as error:
        click.echo(str(error), err=True)
        context.exit(1)
    click.echo(str(report))
