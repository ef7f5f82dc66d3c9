"""What can be wrong with a bundle's files, with what is built, and with where it is built."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import flexdsl as fx
from flexdsl.aot import TARGETS, write
from flexdsl.bundle.expressions import expression_of, nodes_of
from flexdsl.bundle.files import MANIFEST, Bundle, digest_of_manifest, manifest_bytes, open_bundle
from flexdsl.bundle.manifest import Manifest
from flexdsl.bundle.schema import fault_of
from flexdsl.cli.main import main
from flexdsl.errors import BundleError
from tests.aot.conftest import IN_C, variants
from tests.codegen.variants import VARIANTS

SMALL = ("--target", "cuda:80", "--dtype", "fp16", "--head-dim", "16", "--phase", "forward")


def flexdsl(*words: str | Path) -> tuple[int, str]:
    """Exit code and output of the command."""
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.parametrize("name", VARIANTS)
def test_expressions_are_read_back_to_the_same_nodes(name: str) -> None:
    for mod in (VARIANTS[name].mask, VARIANTS[name].score):
        if mod is not None:
            nodes = json.loads(json.dumps(nodes_of(mod.expr)))
            assert expression_of(nodes) is mod.expr


def test_a_manifest_is_read_back_and_satisfies_its_schema(portable: Bundle) -> None:
    data = json.loads((portable.folder / MANIFEST).read_text())
    assert fault_of(data) is None
    assert manifest_bytes(Manifest.of_json(data)) == (portable.folder / MANIFEST).read_bytes()
    assert data["variants"][0]["limits"]["ranges"] == {"window": [1, 2**30]}
    # Relocatable, and without a trace of where it was built.
    for name, text in contents(portable.folder).items():
        for trace in (str(portable.folder), str(Path.home()), str(Path.cwd()), "conftest.py"):
            assert trace.encode() not in text, name


Change = Callable[[dict[str, Any]], Any]
CHANGES: dict[str, tuple[Change, str]] = {
    "newer": (lambda m: m.update(format=2), "has format 2, and this flexdsl reads up to 1"),
    "no format": (lambda m: m.pop("format"), "does not say which format"),
    "no files": (lambda m: m.pop("files"), "has no 'files'"),
    "unknown": (lambda m: m.update(code="import os"), "'code', which is unknown"),
    "altered": (lambda m: m.update(name="other"), "not those of its digest"),
    "outside": (
        lambda m: m["variants"][0]["builds"][0]["kernels"][0].update(code="/etc/passwd"),
        "does not match",
    ),
    "role": (
        lambda m: m["variants"][0]["builds"][0]["kernels"][0]["parameters"][0].update(role="x"),
        "not those of its digest",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_altered_manifest(name: str, copied: Path) -> None:
    data = json.loads((copied / MANIFEST).read_text())
    CHANGES[name][0](data)
    (copied / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BundleError) as wrong:
        fx.load(copied, "window")
    assert CHANGES[name][1] in str(wrong.value)
    code, output = flexdsl("show", copied)
    assert code == 2 and CHANGES[name][1] in output


def test_an_unknown_value_with_a_right_digest(copied: Path) -> None:
    data = json.loads((copied / MANIFEST).read_text())
    data["variants"][0]["builds"][0]["kernels"][0]["parameters"][0]["role"] = "wish"
    text = json.dumps(data)
    digest = digest_of_manifest(text, data["digest"])
    (copied / MANIFEST).write_text(text.replace(data["digest"], digest))
    with pytest.raises(BundleError, match="a value that this flexdsl does not know: 'WISH'"):
        fx.load(copied, "window")
    with pytest.raises(BundleError, match="a value that this flexdsl does not know: 'WISH'"):
        open_bundle(copied)


@pytest.mark.parametrize("kind", ["cubin", "*.py", "*.c", "*.h", "LICENCES.txt"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_file(kind: str, damage: str, copied: Path) -> None:
    if kind == "cubin":
        path = copied / open_bundle(copied).variant("window").builds[0].kernels[-1].code
    else:
        path = sorted(copied.rglob(kind))[0]
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "truncated" else b"?" + data[1:])
    message = "is missing from the bundle" if damage == "missing" else "is not what was built"
    if kind == "cubin":
        with pytest.raises(BundleError, match=message) as wrong:
            fx.load(copied, "window")
        assert path.name in str(wrong.value)
        assert fx.load(copied, "documents")  # which needs nothing of it
    code, output = flexdsl("show", copied)
    assert code == 2 and message in output


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle in"):
        fx.load(tmp_path / "nowhere")
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="it is no JSON"):
        fx.load(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "cuda:91"), "there is no target 'cuda:91'"),
        (("--dtype", "fp8"), "dtype is 'fp8'"),
        (("--head-dim", "wide"), "the head dimension is 'wide'"),
        (("--head-dim", "512"), "head_dim is 512"),
        (("--phase", "sideways"), "there is no phase 'sideways'"),
        (("--phase", "backward"), "a bundle has a forward pass"),
    ],
)
def test_bad_words(words: tuple[str, str], message: str, tmp_path: Path) -> None:
    code, output = flexdsl("build", "q >= kv", "-o", tmp_path / "out", *words)
    assert code == 2 and message in output and "Traceback" not in output
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_was_built_anew_is_read_anew(copied: Path, hopper: Bundle) -> None:
    assert fx.load(copied, "window").variant.name == "window"
    write.write_folder(copied, contents(hopper.folder))
    assert fx.load(copied).variant.name == "sliding_window"


def test_two_variants_of_one_name(tmp_path: Path) -> None:
    code, output = flexdsl("build", "q >= kv", "q > kv", "-o", tmp_path / "out")
    assert code == 2 and "two variants have the name mod" in output
    with pytest.raises(fx.FlexdslError, match="is no name of a variant"):
        fx.variant("two words", mask="q >= kv")


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    for place in ("letters", "letters/love.txt"):
        code, output = flexdsl("build", "q >= kv", "-o", tmp_path / place)
        assert code == 2 and ("is no bundle" in output or "is a file" in output)
    assert contents(tmp_path) == {"letters/love.txt": b"dear"}


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "dist"
    mods = tmp_path / "mods.py"
    mods.write_text("def near(b, h, q, kv):\n    return q >= kv and q - kv < 9\n")
    code, output = flexdsl("build", f"{mods}:near", "-o", out, *SMALL)
    assert code == 0 and "1 kernels compiled" in output
    before = contents(out), (out / MANIFEST).stat().st_mtime_ns
    code, output = flexdsl("build", f"{mods}:near", "-o", out, *SMALL)
    assert code == 0 and "is up to date: 1 kernels, nothing was compiled" in output
    assert (contents(out), (out / MANIFEST).stat().st_mtime_ns) == before
    code, output = flexdsl("build", f"{mods}:near", "-o", out, *SMALL, "--check")
    assert code == 0 and "is what would be built" in output
    code, output = flexdsl("show", out)
    assert code == 0 and "near\n  mask near" in output and "cuda:80, fp16" in output

    mods.write_text("def near(b, h, q, kv):\n    return q > kv and q - kv < 9\n")
    code, output = flexdsl("build", f"{mods}:near", "-o", out, *SMALL, "--check")
    assert code == 1 and "-mask near = q >= kv" in output and "+mask near = q > kv" in output
    assert contents(out) == before[0]
    (out / "near.c").write_text("int x;")  # a damaged bundle is made whole
    mods.write_text("def near(b, h, q, kv):\n    return q >= kv and q - kv < 9\n")
    code, output = flexdsl("build", f"{mods}:near", "-o", out, *SMALL)
    assert code == 0 and "0 kernels compiled, 1 were there" in output
    assert contents(out) == before[0]


def test_processes_import_what_this_one_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not what lies where they are started."""
    (tmp_path / "flexdsl").mkdir()
    (tmp_path / "flexdsl" / "__init__.py").write_text("raise ImportError('another flexdsl')")
    monkeypatch.chdir(tmp_path)
    shape = {"target": "cuda:80", "dtypes": ["fp16"], "head_dims": [16]}
    built = fx.build("q >= kv", out=tmp_path / "dist", phases=["forward"], **shape)
    assert built.compiled == 1


def test_the_same_inputs_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for place in ("one", "another"):
        monkeypatch.setenv("FLEXDSL_CACHE_DIR", str(tmp_path / place / "sources"))
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / place / "triton"))
        out = tmp_path / place / "dist"
        fx.build(
            "q >= kv",
            out=out,
            target="cuda:80",
            dtypes=["fp16"],
            head_dims=[16],
            phases=["forward"],
        )
        made.append(contents(out))
    assert made[0] == made[1]


def test_a_full_disk_leaves_what_was_there(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(copied)
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any) -> Any:
        if path.name == MANIFEST and mode == "wb":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, mode, *rest)

    monkeypatch.setattr(Path, "open", full)
    for out in (copied, copied.with_name("new")):
        with pytest.raises(BundleError, match="No space left on device"):
            write.write_folder(out, {"a/b": b"c", MANIFEST: b"{}"})
    assert contents(copied) == before
    assert [p.name for p in copied.parent.iterdir()] == [copied.name]


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_bundle_is_replaced_whole(
    exchanged: bool, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanged:
        monkeypatch.setattr(write, "_exchange", lambda new, out: False)
    write.write_folder(copied, {"x": b"y", MANIFEST: b"{}"})
    assert contents(copied) == {"x": b"y", MANIFEST: b"{}"}
    assert [p.name for p in copied.parent.iterdir()] == [copied.name]


def test_a_killed_build_leaves_what_was_there(copied: Path) -> None:
    before = contents(copied)
    words = [sys.executable, "-m", "flexdsl.cli.main", "build", "q >= kv and q - kv < 4"]
    environment = os.environ | {"TRITON_CACHE_DIR": str(copied.with_name("triton"))}
    with subprocess.Popen([*words, "-o", str(copied)], env=environment) as process:
        time.sleep(3)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert contents(copied) == before


def test_targets_are_the_published_ones() -> None:
    assert set(TARGETS) == {
        *("cuda:80", "cuda:86", "cuda:89", "cuda:90", "cuda:100", "cuda:120"),
        *("hip:gfx90a", "hip:gfx942"),
    }


def test_small_enough(portable: Bundle, hopper: Bundle) -> None:
    """A forward bundle is under 1 MiB for each target."""
    for bundle, count in ((portable, len(variants())), (hopper, 1)):
        assert sum(map(len, contents(bundle.folder).values())) < count * 2**20
    assert IN_C.split("(")[0].endswith(hopper.manifest.variants[0].name)
