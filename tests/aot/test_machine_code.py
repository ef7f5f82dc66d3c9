"""Machine code of bundles for every target: it is for that GPU, and has the named entry."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import triton

import flexdsl as fx
from flexdsl.aot import TARGETS
from flexdsl.bundle.files import Bundle, open_bundle
from flexdsl.bundle.manifest import Code
from tests.aot.emulation import kernels_of

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
MASK = "mask window(window: int = 64) = q >= kv and q - kv < window"


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The forward pass for every target."""
    folder = tmp_path_factory.mktemp("targets") / "all"
    shape = {"dtypes": ["fp16"], "head_dims": [64], "phases": ["forward"]}
    fx.build(MASK, out=folder, target=list(TARGETS), jobs=2, **shape)
    return open_bundle(folder)


def of_target(bundle: Bundle, target: str) -> Code:
    (build,) = (b for b in bundle.manifest.variants[0].builds if b.target == target)
    (code,) = build.kernels
    return code


@pytest.mark.parametrize("target", TARGETS)
def test_architecture_and_entry(target: str, everywhere: Bundle) -> None:
    code = of_target(everywhere, target)
    path = everywhere.folder / code.code
    backend, arch = target.split(":")
    if backend == "hip":
        data = path.read_bytes()
        assert data[:4] == b"\x7fELF"
        assert f"amdgcn-amd-amdhsa--{arch}".encode() in data
        assert f"{code.entry}.kd".encode() in data
        return
    done = subprocess.run([TOOL, "-elf", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"\bsm[=_]{arch}a?\b", done.stdout)
    assert f".text.{code.entry}" in done.stdout


def test_descriptors_are_tensor_maps_where_there_is_a_copy_engine(everywhere: Bundle) -> None:
    with_maps = {"cuda:90", "cuda:100", "cuda:120"}
    for target in TARGETS:
        descriptors = [
            p for p in of_target(everywhere, target).parameters if p.type == "descriptor"
        ]
        assert len(descriptors) == 4
        assert all((p.tensor_map is not None) == (target in with_maps) for p in descriptors)


def test_hopper_bundles_have_a_hopper_gpu_s_own_kernels(hopper: Bundle) -> None:
    by_phase = {k.phase: k for k in kernels_of(hopper)}
    assert set(by_phase) == {"forward", "backward_rows", "backward", "backward_sums"}
    assert by_phase["forward"].language == by_phase["backward"].language == "gluon"
    assert by_phase["forward"].threads == 384  # two consumers and a producer
    sass = subprocess.run(
        [TOOL, "-sass", hopper.folder / by_phase["forward"].code], capture_output=True, text=True
    )
    assert "HGMMA" in sass.stdout and "UTMALDG" in sass.stdout
