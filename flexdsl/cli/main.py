"""The group of commands. A user's mistake is its message and exit code 2, never a traceback."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

import flexdsl
from flexdsl.errors import FlexdslError

# Command -> its module; read when it is asked for, so that `--help` is quick.
_COMMANDS = {
    "bench": "flexdsl.cli.bench_command",
    "build": "flexdsl.cli.build_command",
    "check": "flexdsl.cli.check_command",
    "demo": "flexdsl.cli.demo_command",
    "doctor": "flexdsl.cli.doctor_command",
    "plan": "flexdsl.cli.plan_command",
    "show": "flexdsl.cli.show_command",
    "verify": "flexdsl.cli.verify_command",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(_COMMANDS[cmd_name]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlexdslError as error:
            click.echo(str(error), err=True)
            ctx.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(flexdsl.__version__, prog_name="flexdsl")
def main() -> None:
    """An attention compiler: masks and scores written in Python become proven, fused kernels."""


if __name__ == "__main__":
    main()
