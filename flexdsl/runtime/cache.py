"""Kernel source on disk, and the compiled functions in this process.

The key is the digest of the source, so that files never change once written; writing is atomic, so
that many processes may share the folder. Triton keeps the machine code in a cache of its own.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from flexdsl.codegen import Kernel


def cache_dir() -> Path:
    """Where generated sources are kept: FLEXDSL_CACHE_DIR, else the user's cache folder."""
    chosen = os.environ.get("FLEXDSL_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "flexdsl"


def source_path(kernel: Kernel) -> Path:
    """The file of the kernel's source, written now if it is not there."""
    path = cache_dir() / f"{kernel.entry}_{kernel.digest}.py"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(kernel.source)
        Path(temporary).replace(path)
    return path


# Looked up at every launch, where to compare sources or to look for files would be slow.
_FUNCTIONS: dict[tuple[str, str | None], Any] = {}


def load(kernel: Kernel) -> Any:
    """The kernel as a function of triton, ready to be launched or compiled."""
    key = kernel.digest, os.environ.get("FLEXDSL_CACHE_DIR")
    if key not in _FUNCTIONS:
        _FUNCTIONS[key] = getattr(_module(source_path(kernel)), kernel.entry)
    return _FUNCTIONS[key]


@cache
def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"flexdsl_generated.{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
