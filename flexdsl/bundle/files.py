"""Opening a bundle: its manifest is read and checked, and its files against their digests.

Whatever is wrong is a `BundleError` before anything is loaded. Nothing in a bundle is executed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flexdsl.bundle.manifest import FORMAT, Code, Manifest, Variant
from flexdsl.bundle.schema import fault_of
from flexdsl.errors import BundleError

MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: where it lies.
        manifest: what it says.
        digest: SHA-256 of the manifest, which names every file by its own.
    """

    folder: Path
    manifest: Manifest
    digest: str

    @cached_property
    def _read(self) -> dict[str, bytes]:
        return {}

    def variant(self, name: str) -> Variant:
        """The variant of that name.

        Raises:
            BundleError: there is none.
        """
        for variant in self.manifest.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.manifest.variants)
        raise BundleError(f"{self.folder} has no variant {name!r}", fix=f"one of {known}")

    def bytes_of(self, path: str) -> bytes:
        """The contents of a file, of the digest that the manifest says.

        Raises:
            BundleError: it is missing, or not what was built.
        """
        if path not in self._read:
            self._read[path] = read_checked(self.folder, path, self.manifest.files)
        return self._read[path]

    def machine_code(self, code: Code) -> bytes:
        """The cubin or hsaco file of a kernel."""
        return self.bytes_of(code.code)


def open_bundle(folder: str | Path) -> Bundle:
    """The bundle in `folder`; every file is checked.

    Raises:
        BundleError: there is none, a file is missing or altered, or a newer flexdsl wrote it.
    """
    bundle = read_manifest(folder)
    for path in bundle.manifest.files:
        bundle.bytes_of(path)
    return bundle


def read_manifest(folder: str | Path) -> Bundle:
    """The bundle in `folder`, whose other files are not looked at yet.

    Raises:
        BundleError: there is none, its manifest is altered, or a newer flexdsl wrote it.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BundleError(
            f"there is no bundle in {folder}",
            why=f"{path} cannot be read: {error.strerror}",
            fix="the folder that `flexdsl build -o` wrote",
        ) from None
    except ValueError as error:
        raise _altered(path, f"it is no JSON: {error}") from None
    _check_format(path, data)
    fault = fault_of(data)
    if fault is not None:
        raise _altered(path, fault)
    if digest_of_manifest(data) != data["digest"]:
        raise _altered(path, "its contents are not those of its digest")
    try:
        manifest = Manifest.of_json(data)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, BundleError):
            raise
        raise _altered(path, f"it has a value that this flexdsl does not know: {error}") from None
    return Bundle(folder, manifest, data["digest"])


def _check_format(path: Path, data: Any) -> None:
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise _altered(path, "it does not say which format it has")
    if data["format"] > FORMAT:
        raise BundleError(
            f"{path} has format {data['format']}, and this flexdsl reads up to {FORMAT}",
            why="a newer flexdsl wrote it",
            fix="that flexdsl, or build the bundle again with this one",
        )


def _altered(path: Path, why: str) -> BundleError:
    return BundleError(
        f"{path} is not what was built", why=why, fix="build the bundle again, or copy it anew"
    )


def digest_of_manifest(data: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own digest."""
    rest = {name: value for name, value in data.items() if name != "digest"}
    return digest_of(json.dumps(rest, sort_keys=True).encode())


def digest_of(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as a file, with its digest; the same for the same manifest."""
    data = manifest.to_json()
    data["digest"] = digest_of_manifest(data)
    return (json.dumps(data, sort_keys=True, indent=1) + "\n").encode()


def read_checked(folder: Path, path: str, files: dict[str, str]) -> bytes:
    """The contents of the file `path` of a bundle.

    Args:
        files: digest of each file.

    Raises:
        BundleError: it is missing, or not what was built.
    """
    place = folder / path
    try:
        data = place.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{place} is missing from the bundle",
            why=str(error.strerror),
            fix="copy the whole folder, or build the bundle again",
        ) from None
    if digest_of(data) != files.get(path):
        raise _altered(place, "its contents are not those of its digest in the manifest")
    return data
