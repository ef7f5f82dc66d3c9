"""Which kernels of which bundle a call takes.

    FLEXDSL_BUNDLES    folders, separated as in PATH: backend "auto" looks for kernels there first
    FLEXDSL_NO_JIT=1   what no bundle has is an error, and is not compiled

Both are read when a kind of call is met first (`remembered.py`): set them before Python starts.
Bundles are opened by `flexdsl/bundle/`; what runs the kernels is `bundled.py`. Nothing is compiled.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from flexdsl.bundle.files import MANIFEST, Bundle, read_manifest
from flexdsl.bundle.manifest import Variant
from flexdsl.errors import BundleError, BundleWarning
from flexdsl.ir import Program
from flexdsl.runtime import bind, machine
from flexdsl.runtime.bundled import Bundled
from flexdsl.runtime.call import DTYPES

PREFIX = "bundle:"  # of the names of backends; the digest of a bundle follows

_OPEN: dict[str, Bundle] = {}
_MISSED: set[str] = set()


def backend_of(bundle: Any) -> str:
    """The name of the backend that has the kernels of `bundle` alone.

    Args:
        bundle: its folder, or what `load` gave.

    Raises:
        BundleError: it cannot be opened.
    """
    return PREFIX + opened(getattr(bundle, "bundle", bundle)).digest


def opened(bundle: Bundle | str | Path) -> Bundle:
    """The bundle, opened and known by its digest from now on."""
    found = bundle if isinstance(bundle, Bundle) else _open(Path(bundle).absolute())
    _OPEN[found.digest] = found
    return found


def _open(folder: Path) -> Bundle:
    """The bundle in a folder, read once for each build of it. A kernel is checked as it is used."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return read_manifest(folder)  # which says what is wrong
    about = manifest.stat()
    return _read(folder, about.st_ino, about.st_mtime_ns)


@cache
def _read(folder: Path, inode: int, written: int) -> Bundle:
    return read_manifest(folder)


def bundles_of_environment() -> list[Bundle]:
    """Those that FLEXDSL_BUNDLES names, opened."""
    folders = os.environ.get("FLEXDSL_BUNDLES", "").split(os.pathsep)
    return [opened(folder) for folder in folders if folder]


def of_backend(backend: str, bound: bind.Bound, q: Tensor, v: Tensor) -> Bundled:
    """The kernels of a call by the backend `bundle:DIGEST`.

    Raises:
        BundleError: the bundle is not open here, or does not have them.
    """
    digest = backend.removeprefix(PREFIX)
    if digest not in _OPEN:
        bundles_of_environment()
    if digest not in _OPEN:
        raise BundleError(
            f"the bundle with the digest {digest[:16]}... is not open in this process",
            fix="fx.load(FOLDER), or FLEXDSL_BUNDLES=FOLDER before Python starts",
        )
    found = _find([_OPEN[digest]], bound, q, v)
    if found is None:
        raise _missing(bound, q, v, [_OPEN[digest]])
    return found


def of_environment(bound: bind.Bound, q: Tensor, v: Tensor) -> Bundled | None:
    """The kernels of a call in the bundles of FLEXDSL_BUNDLES, or None: then they are compiled.

    Raises:
        BundleError: none has them, and FLEXDSL_NO_JIT=1 is set.
    """
    bundles = bundles_of_environment()
    found = _find(bundles, bound, q, v) if bundles else None
    if found is not None:
        return found
    if os.environ.get("FLEXDSL_NO_JIT") == "1":
        raise _missing(bound, q, v, bundles)
    if bundles:
        text = str(_missing(bound, q, v, bundles).what)
        if text not in _MISSED:
            _MISSED.add(text)
            warnings.warn(f"{text}: it is compiled", BundleWarning, stacklevel=2)
    return None


def refuse_compiling(backend: str) -> None:
    """Raise `BundleError` where FLEXDSL_NO_JIT=1 is set: `backend` compiles its kernels."""
    if os.environ.get("FLEXDSL_NO_JIT") == "1":
        raise BundleError(
            f"backend {backend!r} compiles its kernels, and FLEXDSL_NO_JIT=1 forbids that",
            fix="backend='auto' with FLEXDSL_BUNDLES=FOLDER, or bundle=FOLDER",
        )


def _find(bundles: list[Bundle], bound: bind.Bound, q: Tensor, v: Tensor) -> Bundled | None:
    target, dtype = machine.MACHINE.target(q.device), DTYPES.get(q.dtype)
    wanted = target, dtype, q.shape[3], v.shape[3]
    for bundle in bundles:
        for variant in bundle.manifest.variants:
            if not _is_of(variant, bound):
                continue
            for build in variant.builds:
                if (build.target, build.dtype, build.head_dim, build.value_dim) == wanted:
                    return Bundled(bundle, variant, build)
    return None


def _is_of(variant: Variant, bound: bind.Bound) -> bool:
    pairs = (variant.mask, bound.mask), (variant.score, bound.written)
    return all(_expression(mine) is _expression(theirs) for mine, theirs in pairs)


def _expression(program: Program | None) -> Any:
    return None if program is None else program.expr


def _missing(bound: bind.Bound, q: Tensor, v: Tensor, bundles: list[Bundle]) -> BundleError:
    texts = " and ".join(p.text for p in (bound.mask, bound.written) if p is not None)
    dtype, target = DTYPES.get(q.dtype, str(q.dtype)), machine.MACHINE.target(q.device)
    dims = f"{q.shape[3]}/{v.shape[3]}"
    has = [
        f"{variant.name} for {build.title}"
        for bundle in bundles
        for variant in bundle.manifest.variants
        for build in variant.builds
    ]
    return BundleError(
        f"no bundle has the kernel of {texts or 'full attention'} for {target}, {dtype},"
        f" head dimensions {dims}",
        why=f"there is {'; '.join(has)}" if has else "FLEXDSL_BUNDLES names no bundle",
        fix=f"flexdsl build ... --target {target} --dtype {dtype} --head-dim {dims}",
    )
