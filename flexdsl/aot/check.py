"""What a build would change in a bundle, as differences of its texts. Nothing is written."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flexdsl.bundle.files import MANIFEST
from flexdsl.bundle.manifest import Build, Code, Manifest


def differences(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Lines that say how what would be built differs from what is in `folder`; none where nothing.

    Sources are compared kernel by kernel: the file of one has another name when it changes.

    Args:
        files: what would be built, by path.
    """
    old = _kernels(_read(folder / MANIFEST))
    new = _kernels(files[MANIFEST])
    lines: list[str] = []
    for title in sorted(old.keys() | new.keys()):
        before = _lines(_read(folder / old[title].source)) if title in old else []
        after = _lines(files[new[title].source]) if title in new else []
        lines += difflib.unified_diff(
            before, after, f"{title}, built", f"{title}, now", lineterm=""
        )
    named = {k.source for k in (*old.values(), *new.values())}
    named |= {k.code for k in (*old.values(), *new.values())}
    return [*lines, *_others(folder, files, named), *_machine_code(folder, files, old, new)]


def _others(folder: Path, files: Mapping[str, bytes], named: set[str]) -> Iterator[str]:
    """Files beside those of kernels."""
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    for path in sorted((there | files.keys()) - named):
        before, after = _read(folder / path), files.get(path, b"")
        if before != after:
            word = "would be new" if path not in there else "would change"
            yield f"{path} {word if path in files else 'would go'}"


def _machine_code(
    folder: Path, files: Mapping[str, bytes], old: Mapping[str, Code], new: Mapping[str, Code]
) -> Iterator[str]:
    """Kernels whose machine code is not what it was though their source is."""
    for title in sorted(old.keys() & new.keys()):
        same_source = _read(folder / old[title].source) == files[new[title].source]
        if same_source and _read(folder / old[title].code) != files[new[title].code]:
            yield f"{title}: other machine code of the same source"


def _kernels(manifest: bytes) -> dict[str, Code]:
    """The kernels of a manifest, by what they are for."""
    data: Any = json.loads(manifest) if manifest else None
    if data is None:
        return {}
    found: dict[str, Code] = {}
    for variant in Manifest.of_json(data).variants:
        for build in variant.builds:
            found |= {_title(variant.name, build, k): k for k in build.kernels}
    return found


def _title(name: str, build: Build, code: Code) -> str:
    tile = f" {code.tile[0]} x {code.tile[1]}" if code.phase.startswith("plan") else ""
    return f"{name}: {code.phase}{tile} for {build.title}"


def _lines(text: bytes) -> list[str]:
    return text.decode().splitlines()


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
