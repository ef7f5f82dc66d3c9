"""`flexdsl show`: what a mod is at each stage on its way to machine code."""

from __future__ import annotations

from pathlib import Path

import click

from flexdsl.analysis import BlockPlan
from flexdsl.bundle.describe import describe
from flexdsl.bundle.files import MANIFEST, open_bundle
from flexdsl.cli.spec import HELP, read_spec
from flexdsl.codegen import KERNEL_TARGETS
from flexdsl.ir import Capture, Expr, Kind, walk
from flexdsl.mod import Mod
from flexdsl.plans import plan
from flexdsl.stdlib.listing import catalog, table_of

STAGES = ["text", "ir", "plan", *KERNEL_TARGETS, "ptx"]


@click.command(
    "show",
    help=f"Print a mod at one stage of its compilation; `flexdsl show stdlib` lists the library, "
    f"`flexdsl show BUNDLE` describes a bundle.\n{HELP}",
)
@click.argument("spec")
@click.option(
    "--stage",
    type=click.Choice(STAGES),
    default="text",
    show_default=True,
    help="The forward kernel is portable in stage triton, a Hopper GPU's own in stage hopper.",
)
@click.option("--q-len", type=click.IntRange(1), default=2048, show_default=True, help="(plan)")
@click.option("--kv-len", type=click.IntRange(1), help="(plan)  [default: as many as queries]")
@click.option(
    "--head-dim",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="(triton, hopper, ptx)",
)
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "fp16", "fp32"]),
    default="bf16",
    show_default=True,
    help="Element type of the tensors. (ptx)",
)
@click.option(
    "--target",
    default="cuda:90",
    show_default=True,
    help="GPU to compile for, which need not be here. AMD's has another assembly. (ptx)",
)
def command(
    spec: str,
    stage: str,
    q_len: int,
    kv_len: int | None,
    head_dim: int,
    dtype: str,
    target: str,
) -> None:
    """Print one stage."""
    if (Path(spec) / MANIFEST).is_file():
        click.echo(describe(open_bundle(spec)))
        return
    if spec == "stdlib":
        click.echo(table_of(catalog()))
        return
    mod = read_spec(spec)
    if stage in (*KERNEL_TARGETS, "ptx"):
        _check_target(target)
    if stage == "text":
        click.echo(mod.text)
    elif stage == "ir":
        click.echo(_listing(mod.expr))
    elif stage == "plan":
        made = _plan(mod, q_len, kv_len or q_len)
        click.echo(f"{made}\n{made.explain()}")
    elif stage in KERNEL_TARGETS:
        click.echo(mod.source(target=stage, head_dim=head_dim))
    else:
        click.echo(_assembly(mod, target, dtype, head_dim))


def _listing(expr: Expr) -> str:
    """One line a node: its number, type, op and operands."""
    number: dict[Expr, int] = {}
    lines = []
    for node in walk(expr):
        operands = [f"%{number[a]}" for a in node.args]
        label = node.attribute
        if isinstance(label, Capture):
            operands.insert(0, f"{label.name}:{label.dtype.value}[{label.rank}]")
        elif label is not None:
            operands.append(str(label))
        number[node] = len(number)
        lines.append(f"%{number[node]}: {node.type.value} = {node.op.value} {' '.join(operands)}")
    return "\n".join(lines)


def _plan(mod: Mod, q_len: int, kv_len: int) -> BlockPlan:
    made: BlockPlan = plan(mod if mod.kind is Kind.MASK else None, q_len, kv_len)
    return made


def _check_target(target: str) -> None:
    """Raise `TargetError` where there is no such GPU, though only one stage depends on it."""
    from flexdsl.aot import parse_target

    parse_target(target)


def _assembly(mod: Mod, target: str, dtype: str, head_dim: int) -> str:
    from flexdsl.aot import compile_kernel

    mask, score = (mod, None) if mod.kind is Kind.MASK else (None, mod)
    stages = compile_kernel(mask, score, target=target, dtype=dtype, head_dim=head_dim).stages
    return str(stages["ptx" if "ptx" in stages else "amdgcn"])
