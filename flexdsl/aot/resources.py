"""What compiled kernels take of a multiprocessor: registers, shared memory, and what they spill.

    python -m flexdsl.aot.resources [--write]

Plain kernels of each shape are recorded in `resources.json`, beside the configuration that the
table of `runtime/tuning.py` chooses for them. The command compiles them anew, on any machine, and
shows what is not as recorded; `--write` records it, after a change of a kernel or of the compiler.
A test runs the same. Nothing is timed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from flexdsl.aot.plan import tools
from flexdsl.aot.pool import compile_all
from flexdsl.aot.specs import Job, Shape, job_of
from flexdsl.aot.targets import parse_target
from flexdsl.aot.worker import Made
from flexdsl.codegen import Phase
from flexdsl.errors import InternalError
from flexdsl.frontend import parse_program

RECORDS = Path(__file__).with_name("resources.json")

# A mask for each way in which a kernel knows its tiles: none to skip, one end, two, and a table.
_MASKS = {
    "full": None,
    "causal": "q >= kv",
    "window": "mask window(window: int = 1024) = q >= kv and q - kv < window",
    "table": "mask table(ids: i32[_]) = q >= kv and ids[q] == ids[kv]",
}
_HOPPER = (Phase.FORWARD, Phase.BACKWARD)
_PORTABLE = (Phase.FORWARD, Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY)
# Target, dtype, D, Dv, masks, and phases.
_CASES = (
    ("cuda:90", "bf16", 128, 128, ("full", "causal", "window", "table"), _HOPPER),
    ("cuda:90", "bf16", 64, 64, ("full", "causal"), _HOPPER),
    ("cuda:90", "bf16", 96, 96, ("causal",), _PORTABLE),
    ("cuda:90", "bf16", 192, 128, ("causal",), _HOPPER),
    ("cuda:90", "bf16", 256, 256, ("causal",), _HOPPER),
    ("cuda:80", "fp16", 128, 128, ("causal",), _PORTABLE),
)


@dataclass(frozen=True)
class Resources:
    """What one kernel takes.

    Attributes:
        registers: of a thread at the start; partitions of a Gluon kernel share them out anew.
        shared_bytes: of a program.
        stack_bytes: of a thread, in local memory: where it spills registers to. 0 is what to want.
    """

    registers: int
    shared_bytes: int
    stack_bytes: int


def jobs() -> dict[str, Job]:
    """The kernels that are recorded, by what they are for."""
    found: dict[str, Job] = {}
    for target, dtype, dim, value_dim, masks, phases in _CASES:
        shape = Shape(parse_target(target), dtype, dim, value_dim)
        for mask in masks:
            text = _MASKS[mask]
            program = None if text is None else parse_program(text)
            for phase in phases:
                name = f"{target} {dtype} {dim}/{value_dim} {phase.value} {mask}"
                found[name] = job_of(phase, program, None, shape)
    return found


def resources_of(made: Made) -> Resources:
    """What a kernel for an NVIDIA GPU takes, by the tool that comes with triton.

    Raises:
        InternalError: the tool says nothing of it.
    """
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(made.machine_code)
        done = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True)
    text = rf"Function {made.code.entry}:\s+REG:(\d+) STACK:(\d+)"
    found = re.search(text, done.stdout)
    if found is None:
        raise InternalError(f"cuobjdump says nothing of {made.code.entry}: {done.stderr}")
    return Resources(int(found[1]), made.code.shared_bytes, int(found[2]))


def compiled() -> dict[str, Any]:
    """What `resources.json` has to say: the compiler's version, and each kernel."""
    kernels: dict[str, Any] = {}
    for name, made in compile_all(jobs(), os.cpu_count() or 1, lambda _: None).items():
        code = made.code
        config = {"tile": list(code.tile), "threads": code.threads, "stages": code.stages}
        config["language"] = code.language
        kernels[name] = config | asdict(resources_of(made))
    return {"triton": tools()["triton"], "kernels": dict(sorted(kernels.items()))}


def recorded() -> dict[str, Any]:
    """What `resources.json` says."""
    found: dict[str, Any] = json.loads(RECORDS.read_text(encoding="utf-8"))
    return found


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each kernel that is not as it was, and for each that is new or gone."""
    before, after = then["kernels"], now["kernels"]
    return [
        f"{name}: {before.get(name, 'not recorded')} is now {after.get(name, 'gone')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


@click.command()
@click.option("--write", is_flag=True, help="Record what is found.")
def main(write: bool) -> None:
    """Compile the plain kernels and hold them against their records; exit code 1 if they differ."""
    then, now = recorded() if RECORDS.exists() else {"kernels": {}}, compiled()
    for name, kernel in now["kernels"].items():
        figures = (f"{n} {kernel[n]}" for n in ("registers", "shared_bytes", "stack_bytes"))
        click.echo(f"{name:48}{', '.join(figures)}")
    found = differences(then, now)
    if write:
        lines = ",\n".join(f'  "{n}": {json.dumps(k)}' for n, k in now["kernels"].items())
        text = f'{{\n "triton": "{now["triton"]}",\n "kernels": {{\n{lines}\n }}\n}}\n'
        RECORDS.write_text(text, encoding="utf-8")
    elif found:
        click.echo("\n".join([f"recorded by triton {then.get('triton')}, now:", *found]))
        sys.exit(1)


if __name__ == "__main__":
    main()
