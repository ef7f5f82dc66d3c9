"""`flexdsl doctor`: what this machine can do, what each backend takes, and what to do about it."""

from __future__ import annotations

import click

_SIGNS = {"ok": "ok", "absent": "--", "broken": "!!"}


@click.command("doctor")
@click.pass_context
def command(context: click.Context) -> None:
    """Say what this machine can do, and what to do about what is missing.

    Lines begin with ok, with -- for what is not here, or with !! for what has to be mended; then
    the exit code is 1.
    """
    from flexdsl.runtime.doctor import examine

    checks = examine()
    for check in checks:
        click.echo(f"{_SIGNS[check.state]} {check.name:<18} {check.found}")
        if check.advice:
            click.echo(f"   {'':<18} to do: {check.advice}")
    context.exit(1 if any(check.state == "broken" for check in checks) else 0)
