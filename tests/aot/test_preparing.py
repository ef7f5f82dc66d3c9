"""Bundles that have kernels of factors and of tables of q - kv, and kernels that read those."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.bundle.describe import describe
from flexdsl.bundle.files import Bundle, open_bundle
from flexdsl.runtime import bind
from flexdsl.runtime.interpreted import multiply_bfloat16
from tests.aot.emulation import Emulated, stand_in

X, Y = (torch.randn(2, 80, generator=torch.Generator().manual_seed(n)) for n in range(2))


def product(x: torch.Tensor = X, y: torch.Tensor = Y) -> fx.Mod:
    """A score with a product of a number of q and one of kv, and a table of q - kv."""
    return fx.score_mod(
        lambda s, b, h, q, kv: s + x[h, q] * y[h, kv] + fx.cos(0.3 * (q - kv)) * fx.sin(q - kv)
    )


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Portable kernels for float16, with factors and tables."""
    folder = tmp_path_factory.mktemp("halves") / "dist"
    variant = fx.variant("product", mask="q >= kv", score=product())
    fx.build(variant, out=folder, target="cuda:80", dtypes=["fp16"], head_dims=[16], jobs=2)
    return open_bundle(folder)


@pytest.fixture
def gpu(halves: Bundle, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    multiply_bfloat16()
    return stand_in(halves, monkeypatch)


def tensors(dtype: torch.dtype, q_len: int = 45, kv_len: int = 45) -> list[torch.Tensor]:
    torch.manual_seed(3)
    sizes = (2, q_len), (2, kv_len), (2, kv_len)
    return [torch.randn(1, *s, 16).to(dtype).requires_grad_() for s in sizes]


def check(found: torch.Tensor, leaves: list[torch.Tensor], within: float, **call: Any) -> None:
    """Output and gradients against the dense reference in float64."""
    exact = [x.detach().double().requires_grad_() for x in leaves]
    expected = fx.attention(*exact, backend="reference", **call)
    torch.testing.assert_close(found.double(), expected, atol=within, rtol=within)
    gradients = torch.autograd.grad(found.square().sum(), leaves)
    wanted = torch.autograd.grad(expected.square().sum(), exact)
    for gradient, of_reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), of_reference, atol=8 * within, rtol=within)


def phases(gpu: Emulated) -> list[str]:
    return [launch.code.phase for launch in gpu.launches]


BACKWARD = ["backward_rows", "backward_query", "backward_key"]


def test_tables_are_written_before_each_pass(ampere: Emulated, portable: Bundle) -> None:
    bind.forget()
    leaves = tensors(torch.float32)
    score = fx.stdlib.sandwich(2, dim=8)
    check(fx.load(portable.folder, "waves")(*leaves), leaves, 1e-4, mask="q >= kv", score=score)
    assert phases(ampere) == ["differences", "forward", "differences", *BACKWARD]
    read = [launch.code.before for launch in ampere.launches]
    assert read == [(), ("differences",), (), (), ("differences",), ("differences",)]


def test_a_row_alone_has_no_table(ampere: Emulated, portable: Bundle) -> None:
    """Each of its differences is there once."""
    bind.forget()
    leaves = tensors(torch.float32, q_len=1)
    call = {"mask": "q >= kv", "score": fx.stdlib.sandwich(2, dim=8), "q_offset": 44}
    check(fx.load(portable.folder, "waves")(*leaves, q_offset=44), leaves, 1e-4, **call)
    assert phases(ampere) == ["forward", *BACKWARD]
    assert not any(launch.code.before for launch in ampere.launches)


def test_factors_and_tables(gpu: Emulated, halves: Bundle) -> None:
    leaves = tensors(torch.float16)
    attention = fx.load(halves.folder, x=X, y=Y)
    check(attention(*leaves), leaves, 6e-3, mask="q >= kv", score=product())
    before = ["factors", "differences"]
    assert phases(gpu) == [*before, "forward", *before, *BACKWARD]
    x, y = (torch.flip(t, (1,)) for t in (X, Y))
    again = fx.load(halves.folder, x=x, y=y)(*leaves)
    check(again, leaves, 6e-3, mask="q >= kv", score=product(x, y))


def test_what_is_not_built_together_is_not_prepared(gpu: Emulated, halves: Bundle) -> None:
    """Factors are divided by the scale; where it is tiny the score is computed as written."""
    leaves = tensors(torch.float16)
    attention = fx.load(halves.folder, x=X, y=Y)
    call = {"mask": "q >= kv", "score": product(), "scale": 1e-30}
    check(attention(*leaves, scale=1e-30), leaves, 6e-3, **call)
    assert phases(gpu) == ["forward", *BACKWARD]


def test_what_a_bundle_says_of_them(halves: Bundle) -> None:
    lines = [n.strip() for n in describe(halves).splitlines()]
    forward = [n for n in lines if n.startswith("forward:")]
    assert len(forward) == 2 and sum("after factors, after differences" in n for n in forward) == 1
    assert any(n.startswith("factors:") for n in lines)
    text = halves.bytes_of("product.c").decode()
    assert "factors" not in text and "differences" not in text
