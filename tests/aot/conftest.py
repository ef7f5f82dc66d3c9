"""Bundles that tests share: each is built once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import flexdsl as fx
from flexdsl.bundle.files import Bundle, open_bundle
from flexdsl.runtime import bundles
from tests.aot.emulation import Emulated, stand_in

IDS = torch.tensor([0] * 20 + [1] * 25, dtype=torch.int32)
OFFSETS = torch.tensor([0, 20, 27, 45])
SLOPES = torch.tensor([0.5, 0.25], requires_grad=True)
WINDOW = "mask window(window: int = 9) = q >= kv and q - kv < window"
IN_C = "mask sliding_window(window: int = 1024) = q >= kv and q - kv < window"


def documents(ids: torch.Tensor = IDS) -> fx.Mod:
    """A mask by a table."""
    return fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv] and q >= kv)


def packed(offsets: torch.Tensor = OFFSETS) -> fx.Mod:
    """A mask by the ends of rows forward, and by a table of keys backward."""
    return fx.stdlib.document(offsets=offsets)


def near() -> fx.Mod:
    """Tokens of a grid 16 wide, at most two rows and two columns apart."""

    def near(b, h, q, kv):
        return abs(q // 16 - kv // 16) <= 2 and abs(q % 16 - kv % 16) <= 2

    return fx.mask_mod(near)


def alibi(slopes: torch.Tensor = SLOPES) -> fx.Mod:
    """A score modification with a learned tensor."""
    return fx.score_mod(lambda score, b, h, q, kv: score + slopes[h] * (kv - q))


def variants() -> list[fx.Variant]:
    """One of each kind: a closed form with a parameter, by rows, a table, a learned tensor."""
    return [
        fx.variant("window", mask=WINDOW),
        fx.variant("documents", mask=documents()),
        fx.variant("packed", mask=packed()),
        fx.variant("slopes", mask="q >= kv", score=alibi()),
        fx.variant("waves", mask="q >= kv", score=fx.stdlib.sandwich(2, dim=8)),
    ]


@pytest.fixture(scope="session")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Portable kernels of all kinds, which the emulated GPU can run."""
    folder = tmp_path_factory.mktemp("portable") / "kinds"
    fx.build(variants(), out=folder, target="cuda:80", dtypes=["fp32"], head_dims=[16], jobs=2)
    return open_bundle(folder)


@pytest.fixture(scope="session")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A Hopper GPU's own kernels of a sliding window."""
    folder = tmp_path_factory.mktemp("hopper") / "dist"
    fx.build(IN_C, out=folder, target="cuda:90", jobs=2)
    return open_bundle(folder)


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A Hopper GPU's own kernels of a mask by a table that takes many instructions."""
    folder = tmp_path_factory.mktemp("grid") / "dist"
    fx.build(fx.variant("near", mask=near()), out=folder, target="cuda:90", jobs=2)
    return open_bundle(folder)


@pytest.fixture
def ampere(portable: Bundle, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """An emulated GPU that runs the portable kernels."""
    return emulated_gpu("cuda:80", portable, monkeypatch)


@pytest.fixture
def hopper_gpu(hopper: Bundle, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """An emulated GPU that records what it is to run."""
    return emulated_gpu("cuda:90", hopper, monkeypatch, runs=False)


@pytest.fixture
def grid_gpu(grid: Bundle, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """An emulated GPU that runs its kernels in Triton and records the others."""
    return emulated_gpu("cuda:90", grid, monkeypatch)


def emulated_gpu(
    name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, runs: bool = True
) -> Emulated:
    emulated = stand_in(bundle, monkeypatch, name, runs)
    bundles.opened(bundle)
    return emulated


@pytest.fixture
def copied(portable: Bundle, tmp_path: Path) -> Path:
    """A copy of a bundle, to be damaged."""
    import shutil

    shutil.copytree(portable.folder, tmp_path / "copy")
    return tmp_path / "copy"
