"""`build`: variants for targets become a bundle, and only what is new is compiled.

    variants x shapes --plan--> jobs --pool--> machine code --assemble--> files --write--> folder

The same inputs give the same bytes: nothing in a bundle knows when, where or by whom it was built.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexdsl.aot.assemble import assemble
from flexdsl.aot.plan import plan_builds, planning_jobs, tools
from flexdsl.aot.pool import compile_all
from flexdsl.aot.specs import Job, Shape
from flexdsl.aot.targets import parse_target
from flexdsl.aot.worker import Made
from flexdsl.aot.write import check_place, write_folder
from flexdsl.bundle.files import MANIFEST, Bundle, read_manifest
from flexdsl.errors import ArgumentError, BundleError
from flexdsl.variants import Variant, as_variant

PHASES = ("forward", "backward")  # of a bundle that says nothing else
_DECODE = "decode"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        folder: the bundle.
        compiled: how many kernels were compiled.
        reused: how many were in the bundle already.
        files: contents of all files, by path.
        changed: files were written; False where the bundle was up to date.
    """

    folder: Path
    compiled: int
    reused: int
    files: dict[str, bytes]
    changed: bool


def build(
    mods: Any,
    *,
    out: str | Path,
    target: str | Sequence[str] = "cuda:90",
    dtypes: Sequence[str] = ("bf16",),
    head_dims: Sequence[int | tuple[int, int]] = (128,),
    phases: Sequence[str] = PHASES,
    name: str | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    write: bool = True,
) -> Built:
    """Compile attention for GPUs that need not be here, into a folder that needs no compiler.

    What is in the folder already and has not changed is not compiled again; a build that fails or
    is killed leaves the folder as it was.

    Args:
        mods: a mod, its text, an `fx.variant`, or a list of them. A captured tensor that requires a
            gradient gets one in the backward pass.
        out: the folder; it is made, or replaced where it is a bundle.
        target: names of GPUs: "cuda:80", "cuda:90", "hip:gfx942", ...
        dtypes: of query, key and value: "fp16", "bf16", "fp32".
        head_dims: D, or (D, Dv) where values have another one.
        phases: "forward", and what else is wanted: "backward", and "decode", kernels for few
            queries (`runtime/splits.py`), without which those have the ordinary forward kernel.
        name: of the bundle; the name of the folder where None.
        jobs: how many processes compile; the number of cores where None.
        progress: called with the number of kernels that are compiled and that are to be.
        write: False to leave the folder as it is, and only look.

    Returns:
        What was done, and the files.

    Raises:
        TargetError, ArgumentError, CaptureError, ...: something cannot be built.
        BundleError: `out` is no place for a bundle, or the disk is full.
    """
    folder = Path(out)
    check_place(folder)
    variants = _variants(mods)
    shapes = _shapes(target, dtypes, head_dims)
    _check_phases(phases)
    versions = tools()
    planned = plan_builds(variants, shapes, phases, versions)
    maker = _Maker(_existing(folder), jobs or os.cpu_count() or 1, progress)
    maker.make({digest: job for p in planned for digest, job in p.jobs.items()})
    planned = [planning_jobs(p, maker.made, versions) for p in planned]
    maker.make({digest: job for p in planned for digest, job in p.jobs.items()})
    files = assemble(name or _identifier(folder.absolute().name), planned, maker.made, versions)
    changed = maker.manifest != files[MANIFEST] or maker.damaged
    if changed and write:
        write_folder(folder, files)
    return Built(folder, maker.compiled, maker.reused, files, changed)


class _Maker:
    """Kernels by the digest of their inputs: from the bundle that is there, or compiled."""

    def __init__(self, existing: Bundle | None, processes: int, progress: Progress | None) -> None:
        self.made: dict[str, Made] = {}
        self.compiled = self.reused = self._wanted = 0
        self.damaged = False
        self.manifest = b""
        self._processes, self._progress = processes, progress
        self._there = {} if existing is None else self._read(existing)

    def make(self, jobs: dict[str, Job]) -> None:
        """Have each job done."""
        missing = {d: j for d, j in jobs.items() if d not in self.made and d not in self._there}
        for digest in jobs.keys() & self._there.keys():
            if digest not in self.made:
                self.made[digest] = self._there[digest]
                self.reused += 1
        self._wanted += len(missing)
        self._say()
        self.made |= compile_all(missing, self._processes, self._done)

    def _done(self, digest: str) -> None:
        self.compiled += 1
        self._say()

    def _say(self) -> None:
        if self._progress is not None:
            self._progress(self.compiled, self._wanted)

    def _read(self, existing: Bundle) -> dict[str, Made]:
        """The kernels of a bundle whose files are what its manifest says."""
        found: dict[str, Made] = {}
        self.manifest = (existing.folder / MANIFEST).read_bytes()
        for path in existing.manifest.files:
            try:
                existing.bytes_of(path)
            except BundleError:
                self.damaged = True
        builds = (b for v in existing.manifest.variants for b in v.builds)
        for code in (k for b in builds for k in b.kernels):
            try:
                source = existing.bytes_of(code.source).decode()
                found[code.made_of] = Made(code, existing.bytes_of(code.code), source)
            except BundleError:
                self.damaged = True
        return found


def _existing(folder: Path) -> Bundle | None:
    """The bundle that is there; None where there is none that this flexdsl can read."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return read_manifest(folder)
    except BundleError:
        return None


def _variants(mods: Any) -> list[Variant]:
    given = mods if isinstance(mods, Iterable) and not isinstance(mods, str) else [mods]
    variants = [as_variant(m) for m in given]
    if not variants:
        raise ArgumentError("there is nothing to build", fix="a mod, or a list of them")
    names = [v.name for v in variants]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(
                f"two variants have the name {name}",
                why="files and functions in C are named after them",
                fix='fx.variant("another_name", mask=..., score=...) for one of them',
            )
    return variants


def _shapes(
    target: str | Sequence[str],
    dtypes: Sequence[str],
    head_dims: Sequence[int | tuple[int, int]],
) -> list[Shape]:
    targets = [target] if isinstance(target, str) else target
    dims = [(d, d) if isinstance(d, int) else d for d in head_dims]
    shapes = [
        Shape(parse_target(t), dtype, *pair) for t in targets for dtype in dtypes for pair in dims
    ]
    if not shapes:
        raise ArgumentError(
            "there is no target, dtype or head dimension to build for",
            fix='target="cuda:90", dtypes=["bf16"], head_dims=[128]',
        )
    return list(dict.fromkeys(shapes))


def _check_phases(phases: Sequence[str]) -> None:
    for phase in phases:
        if phase not in (*PHASES, _DECODE):
            known = ", ".join((*PHASES, _DECODE))
            raise ArgumentError(f"there is no phase {phase!r} of a bundle", fix=known)
    if "forward" not in phases:
        raise ArgumentError(
            "a bundle has a forward pass",
            why="the backward pass needs what it gives, and few queries are not all calls",
            fix='phases=("forward", "backward")',
        )


def _identifier(name: str) -> str:
    cleaned = re.sub(r"\W", "_", name, flags=re.ASCII)
    return cleaned if re.match(r"[A-Za-z_]", cleaned) else f"_{cleaned}"
