"""Writing a bundle so that there is all of it or none: into a folder beside, which takes its place.

A build that is killed, or that fills the disk, leaves what was there before. What is in the files
is not known here.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flexdsl.bundle.files import MANIFEST
from flexdsl.errors import BundleError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h, linux/fs.h


def check_place(out: Path) -> None:
    """Raise `BundleError` where `out` is something that is no bundle: nothing of it is touched."""
    if out.is_dir() and not (out / MANIFEST).is_file() and any(out.iterdir()):
        raise BundleError(
            f"{out} has files in it and is no bundle",
            why="a build replaces the whole folder",
            fix="a folder that is not there yet, or an empty one",
        )
    if out.exists() and not out.is_dir():
        raise BundleError(f"{out} is a file, not a folder", fix="a folder that is not there yet")


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Make `out` a folder of exactly these files, at once.

    Raises:
        BundleError: the disk is full, or the place cannot be written.
    """
    check_place(out)
    beside: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        for path, data in files.items():
            place = beside / path
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        beside.chmod(0o777 & ~_umask())
        _replace(beside, out)
    except OSError as error:
        raise BundleError(
            f"{out} cannot be written: {error.strerror}",
            why="what was there before is still there",
            fix="another place, or more room on the disk",
        ) from None
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def _replace(new: Path, out: Path) -> None:
    """Put `new` in the place of `out`; what was there stands at `new` then."""
    if not out.exists():
        new.rename(out)
    elif not _exchange(new, out):
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
        out.rename(old / "bundle")
        new.rename(out)
        shutil.rmtree(old)


def _exchange(new: Path, out: Path) -> bool:
    """Exchange two folders in one step, where the system can."""
    function = getattr(ctypes.CDLL(None), "renameat2", None)
    if function is None:
        return False
    paths = os.fsencode(new), os.fsencode(out)
    code: int = function(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    return code == 0


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
