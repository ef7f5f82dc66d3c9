"""Bundles of scores that are simpler under their mask: found by what the user wrote, and right."""

from __future__ import annotations

import pytest
import torch

import flexdsl as fx
from flexdsl.bundle.files import Bundle, open_bundle
from tests.aot.emulation import Emulated, stand_in
from tests.aot.test_preparing import BACKWARD, check, phases, tensors

SLOPES = torch.tensor([0.5, 0.25])
MASK = "q >= kv and q - kv < 30"


def distances() -> fx.Mod:
    """ALiBi by absolute distances, and what is for later keys alone."""
    return fx.score_mod(
        lambda s, b, h, q, kv: s - SLOPES[h] * fx.abs(q - kv) if q >= kv else 3.0 * s
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("given") / "dist"
    variant = fx.variant("distances", mask=MASK, score=distances())
    fx.build(variant, out=folder, target="cuda:80", dtypes=["fp32"], head_dims=[16], jobs=2)
    return open_bundle(folder)


@pytest.fixture
def gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    return stand_in(bundle, monkeypatch)


def test_a_loaded_bundle(gpu: Emulated, bundle: Bundle) -> None:
    leaves = tensors(torch.float32)
    attention = fx.load(bundle.folder, SLOPES=SLOPES)
    check(attention(*leaves), leaves, 1e-4, mask=MASK, score=distances())
    assert phases(gpu) == ["forward", *BACKWARD]


def test_the_manifest_has_what_was_written(bundle: Bundle) -> None:
    (variant,) = bundle.manifest.variants
    assert variant.score is not None and variant.score.expr is distances().program.expr
    for build in variant.builds:
        for code in build.kernels:
            assert "abs(" not in bundle.bytes_of(code.source).decode()


def test_attention_with_that_bundle(gpu: Emulated, bundle: Bundle) -> None:
    leaves = tensors(torch.float32)
    out = fx.attention(*leaves, mask=MASK, score=distances(), bundle=bundle.folder)
    check(out, leaves, 1e-4, mask=MASK, score=distances())
    assert phases(gpu) == ["forward", *BACKWARD]
