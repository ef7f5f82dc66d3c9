"""torch.export and AOTInductor: a model whose attention comes from a bundle, on an emulated GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import flexdsl as fx
from flexdsl.bundle.files import Bundle
from tests.aot.conftest import WINDOW
from tests.aot.emulation import Emulated


class Model(torch.nn.Module):
    """A layer of attention between others."""

    def __init__(self, bundle: Path) -> None:
        super().__init__()
        self.mask, self.bundle = fx.parse(WINDOW), str(bundle)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return fx.attention(2.0 * q, k, v, mask=self.mask, bundle=self.bundle).sin()


def inputs() -> list[torch.Tensor]:
    torch.manual_seed(5)
    return [torch.randn(1, 2, 45, 16) for _ in range(3)]


def expected(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = fx.attention(2.0 * q, k, v, mask=WINDOW, backend="reference")
    return out.sin()


def test_an_exported_model_names_its_bundle_and_runs_with_it(
    ampere: Emulated, portable: Bundle
) -> None:
    tensors = inputs()
    exported = torch.export.export(Model(portable.folder), tuple(tensors))
    (call,) = (n for n in exported.graph.nodes if "flexdsl.attention" in str(n.target))
    assert call.args[-1] == f"bundle:{portable.digest}"
    assert not ampere.launches
    torch.testing.assert_close(exported.module()(*tensors), expected(*tensors))
    assert [launch.code.phase for launch in ampere.launches] == ["forward"]


@pytest.mark.filterwarnings("ignore")
def test_a_packaged_model_runs_with_its_bundle(
    ampere: Emulated, portable: Bundle, tmp_path: Path
) -> None:
    tensors = inputs()
    exported = torch.export.export(Model(portable.folder), tuple(tensors))
    package = torch._inductor.aoti_compile_and_package(
        exported, package_path=str(tmp_path / "model.pt2")
    )
    run = torch._inductor.aoti_load_package(package)
    torch.testing.assert_close(run(*tensors), expected(*tensors))
    assert [launch.code.phase for launch in ampere.launches] == ["forward"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_compiled_model_has_no_break(ampere: Emulated, portable: Bundle) -> None:
    tensors = inputs()
    compiled = torch.compile(Model(portable.folder), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), expected(*tensors))
    assert [launch.code.phase for launch in ampere.launches] == ["forward"]
