"""`flexdsl check`: every mod of a Python file: does it compile, and what is suspicious about it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from flexdsl.cli.spec import names_in_file
from flexdsl.errors import FlexdslError
from flexdsl.frontend.trace import ARGUMENTS
from flexdsl.lints import Finding, lint
from flexdsl.mod import Mod, as_mod


@click.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def command(context: click.Context, file: Path) -> None:
    """Check all mods of FILE.py: Mods, and functions (b, h, q, kv) or (score, b, h, q, kv).

    Each is traced, and looked through for what is no error and still suspicious: rows without a
    key, a mask that is always true or false, a term that cancels in the softmax, a comparison that
    Python reads otherwise, a window of one key more than its name says, a numpy array that every
    call reads. Exit code 0 where there is nothing, 1 for findings, 2 for errors.
    """
    mods = _mods_of(names_in_file(file), file)
    errors, findings = 0, 0
    for name, value in mods.items():
        try:
            program = value.program if isinstance(value, Mod) else _as_mod(value).program
            found = lint(program)
        except FlexdslError as error:
            errors += 1
            click.echo(f"error    {name}\n{_indented(error)}")
            continue
        findings += len(found)
        click.echo(f"{'suspect' if found else 'ok':<8} {name}: {program.text}")
        for finding in found:
            click.echo(_indented(finding))
    click.echo(f"{len(mods)} mods in {file}: {errors} errors, {findings} findings")
    context.exit(2 if errors else 1 if findings else 0)


def _indented(text: FlexdslError | Finding) -> str:
    return "\n".join(f"  {line}" for line in str(text).splitlines())


def _mods_of(names: dict[str, Any], file: Path) -> dict[str, Any]:
    """What is a mod among the names of a file, each once, by the first of its names."""
    found: dict[str, Any] = {}
    for name, value in names.items():
        written_here = inspect.isfunction(value) and Path(value.__code__.co_filename) == file
        is_mod = isinstance(value, Mod) or (written_here and _kind_arguments(value) is not None)
        if is_mod and not any(value is other for other in found.values()):
            found[name] = value
    return found


def _kind_arguments(function: Any) -> Any:
    """The kind whose arguments the function has, by their names."""
    names = tuple(inspect.signature(function).parameters)
    return next((kind for kind, wanted in ARGUMENTS.items() if tuple(wanted) == names), None)


def _as_mod(function: Any) -> Mod:
    return as_mod(function, _kind_arguments(function))
