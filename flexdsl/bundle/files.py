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

    def check(self, variant: Variant) -> None:
        """Raise `BundleError` where machine code of a variant is missing or not what was built."""
        try:
            kernels = [code for build in variant.builds for code in build.kernels]
        except (KeyError, ValueError, TypeError) as error:
            raise _unknown(self.folder / MANIFEST, error) from None
        for code in kernels:
            self.machine_code(code)

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
    """The bundle in `folder`; its manifest is held against the schema, every file is checked.

    Raises:
        BundleError: there is none, a file is missing or altered, or a newer flexdsl wrote it.
    """
    bundle = read_manifest(folder)
    path = bundle.folder / MANIFEST
    fault = fault_of(json.loads(path.read_text("utf-8")))
    if fault is not None:
        raise _altered(path, fault)
    for variant in bundle.manifest.variants:
        bundle.check(variant)
    for path_in_bundle in bundle.manifest.files:
        bundle.bytes_of(path_in_bundle)
    return bundle


def read_manifest(folder: str | Path) -> Bundle:
    """The bundle in `folder`, whose other files are not looked at yet.

    A manifest with the right digest is what a flexdsl wrote, so that its schema is not looked at.

    Raises:
        BundleError: there is none, its manifest is altered, or a newer flexdsl wrote it.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        text = path.read_text("utf-8")
        data = json.loads(text)
    except OSError as error:
        raise BundleError(
            f"there is no bundle in {folder}",
            why=f"{path} cannot be read: {error.strerror}",
            fix="the folder that `flexdsl build -o` wrote",
        ) from None
    except ValueError as error:
        raise _altered(path, f"it is no JSON: {error}") from None
    _check_format(path, data)
    digest = str(data.get("digest"))
    if digest_of_manifest(text, digest) != digest:
        raise _altered(path, fault_of(data) or "its contents are not those of its digest")
    return Bundle(folder, _manifest(path, data), digest)


def _manifest(path: Path, data: Any) -> Manifest:
    """The manifest of data with the right digest; a flexdsl wrote it."""
    try:
        return Manifest.of_json(data)
    except BundleError:
        raise
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise _unknown(path, error) from None


def _unknown(path: Path, error: Exception) -> BundleError:
    return _altered(path, f"it has a value that this flexdsl does not know: {error}")


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


def digest_of_manifest(text: str, digest: str) -> str:
    """SHA-256 of the text of a manifest without the `digest` that stands in it."""
    return digest_of(text.replace(f'"{digest}"', '""', 1).encode())


def digest_of(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as a file, with its digest; the same for the same manifest."""
    data = manifest.to_json() | {"digest": ""}
    text = json.dumps(data, sort_keys=True, indent=1) + "\n"
    return text.replace('"digest": ""', f'"digest": "{digest_of(text.encode())}"', 1).encode()


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
