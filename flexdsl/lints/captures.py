"""Captured arrays that every call reads: numpy arrays, of which nothing tells that they changed."""

from __future__ import annotations

from collections.abc import Iterator

from flexdsl.ir import Op, Program, captures_of, walk
from flexdsl.lints.finding import Finding, place_of


def find_arrays(program: Program) -> Iterator[Finding]:
    """Captured tensors that are numpy arrays, not torch tensors."""
    for capture in captures_of(program.expr):
        value = program.values.get(capture.name)
        if not type(value).__module__.startswith("numpy"):
            continue
        loads = (n for n in walk(program.expr) if n.op is Op.LOAD and n.attribute == capture)
        yield Finding(
            "copied-array",
            f"{capture.name} is a numpy array of {getattr(value, 'nbytes', 0)} bytes",
            "each call reads all of it to see whether it changed, and copies it to the GPU if so",
            f"{capture.name} = torch.as_tensor({capture.name}, device=...), once",
            place_of(program, next(loads)),
        )
