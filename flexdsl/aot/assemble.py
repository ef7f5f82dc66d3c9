"""The files of a bundle, from the kernels that were made: text and bytes, written by nobody yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flexdsl.analysis.typical import LENGTH, proven_form
from flexdsl.aot.c_launcher import launcher
from flexdsl.aot.plan import Planned
from flexdsl.aot.worker import Made
from flexdsl.bundle.files import MANIFEST, digest_of, manifest_bytes
from flexdsl.bundle.manifest import Build, Manifest, Variant
from flexdsl.codegen import OF_KEYS
from flexdsl.ir import Program

LICENCES = "LICENCES.txt"

_LICENCES_TEXT = """\
What is in this bundle, and under which terms
---------------------------------------------
The generated sources (source/), the launchers (*.h, *.c) and the machine code that was made of
them are output of flexdsl. flexdsl claims no rights in its output: it is yours, as the masks and
score modifications are that it was made of.

The machine code was made by Triton's compiler (MIT licence), which uses LLVM (Apache License 2.0
with LLVM exceptions) and, for NVIDIA GPUs, ptxas and libdevice of the CUDA toolkit (NVIDIA's
licence of the toolkit).
Kernels call nothing at run time but the GPU's driver.
"""


def assemble(
    name: str, planned: Sequence[Planned], made: Mapping[str, Made], versions: dict[str, str]
) -> dict[str, bytes]:
    """All files of a bundle, by path, the manifest among them."""
    files: dict[str, bytes] = {}
    for digest in (d for p in planned for d in p.jobs):
        kernel = made[digest]
        files[kernel.code.code] = kernel.machine_code
        files[kernel.code.source] = kernel.source.encode()
    by_name: dict[str, list[Planned]] = {}
    for p in planned:
        by_name.setdefault(p.name, []).append(p)
    variants = tuple(_variant(group, made) for group in by_name.values())
    for variant in variants:
        files |= launcher(variant, files)
    files[LICENCES] = _LICENCES_TEXT.encode()
    files[f"{name}.d"] = _dependencies(files)
    digests = {path: digest_of(data) for path, data in sorted(files.items())}
    files[MANIFEST] = manifest_bytes(Manifest(name, versions, variants, digests))
    return files


def _variant(group: Sequence[Planned], made: Mapping[str, Made]) -> Variant:
    first = group[0]
    builds = tuple(
        Build(
            p.shape.target.name,
            p.shape.dtype,
            p.shape.head_dim,
            p.shape.value_dim,
            tuple(made[d].code for d in p.jobs),
        )
        for p in group
    )
    limits = _limits(group, made)
    mask, score = (_without_tensors(p) for p in (first.mask, first.score))
    return Variant(first.name, mask, score, builds, first.learned, **limits)


def _without_tensors(program: Program | None) -> Program | None:
    """A program with its numbers alone: kernels do not depend on what was captured."""
    if program is None:
        return None
    numbers = {n: v for n, v in program.values.items() if isinstance(v, int | float)}
    return replace(program, values=numbers, spans={})


def _limits(group: Sequence[Planned], made: Mapping[str, Made]) -> dict[str, Any]:
    """What the kernels of closed forms are proven for: what all of them are."""
    mask = group[0].mask
    phases = {p.jobs[d].phase for p in group for d in p.jobs if made[d].code.plan == "closed-form"}
    if mask is None or not phases:
        return {}
    inners = {"q" if phase in OF_KEYS else "kv" for phase in phases}
    forms = [f for f in (proven_form(mask, inner) for inner in sorted(inners)) if f is not None]
    if not forms:
        return {}
    ranges = {
        name: (max(f.ranges[name][0] for f in forms), min(f.ranges[name][1] for f in forms))
        for name in forms[0].ranges
    }
    used = mask.expr.variables
    return {
        "ranges": ranges,
        "positions": LENGTH,
        "batch": min(f.batch for f in forms) if "b" in used else 0,
        "heads": min(f.heads for f in forms) if "h" in used else 0,
    }


def _dependencies(files: Mapping[str, bytes]) -> bytes:
    """A dependency file as make reads it: the machine code and the source that it was made of."""
    lines = []
    for path in sorted(files):
        stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if path.endswith((".cubin", ".hsaco")):
            lines.append(f"{path}: source/{stem}.py")
    return ("\n".join(lines) + "\n").encode()
