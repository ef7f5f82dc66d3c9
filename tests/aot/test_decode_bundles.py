"""Bundles that have kernels of few queries: which calls take them, and what these give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.bundle.files import Bundle, open_bundle
from flexdsl.runtime import bind
from tests.aot.emulation import Emulated, stand_in

KEYS = 700
IDS = (torch.arange(KEYS) >= 150).int()
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
MASK = "mask window(window: int = 600) = q >= kv and q - kv < window"


def waves() -> fx.Mod:
    """A score with a table of q - kv, and slopes of each head."""
    return fx.score_mod(
        lambda s, b, h, q, kv: (
            s + SLOPES[h] * (kv - q) * 0.1 + fx.cos(q - kv) * fx.sin(0.3 * (q - kv))
        )
    )


def documents() -> fx.Mod:
    """A mask whose plan is a table."""
    return fx.mask_mod(lambda b, h, q, kv: IDS[q] == IDS[kv])


VARIANTS = [
    fx.variant("window", mask=MASK),
    fx.variant("documents", mask=documents()),
    fx.variant("waves", mask="q >= kv", score=waves()),
]
MODS: dict[str, dict[str, Any]] = {
    "window": {"mask": MASK},
    "documents": {"mask": documents()},
    "waves": {"mask": "q >= kv", "score": waves()},
}

VALUES: dict[str, Any] = {"window": {}, "documents": {"IDS": IDS}, "waves": {"SLOPES": SLOPES}}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Portable kernels, without a backward pass."""
    folder = tmp_path_factory.mktemp("few") / "dist"
    how = {"dtypes": ["fp32"], "head_dims": [16], "phases": ["forward", "decode"]}
    fx.build(VARIANTS, out=folder, target="cuda:80", jobs=2, **how)
    return open_bundle(folder)


@pytest.fixture
def gpu(few: Bundle, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    return stand_in(few, monkeypatch)


def tensors(q_len: int, kv_len: int = KEYS, heads: tuple[int, int] = (4, 2)) -> list[torch.Tensor]:
    torch.manual_seed(q_len)
    shapes = (heads[0], q_len), (heads[1], kv_len), (heads[1], kv_len)
    return [torch.randn(1, *shape, 16) for shape in shapes]


def ran(gpu: Emulated) -> list[tuple[str, int]]:
    """The kernels of attention that ran, and the rows of their tiles."""
    codes = [launch.code for launch in gpu.launches]
    return [(c.phase, c.tile[0]) for c in codes if c.phase.startswith("forward")]


@pytest.mark.parametrize(("q_len", "rows"), [(1, 16), (7, 16), (12, 32), (32, 64)])
@pytest.mark.parametrize("name", MODS)
def test_few_queries(name: str, q_len: int, rows: int, few: Bundle, gpu: Emulated) -> None:
    call = {"q_offset": KEYS - q_len, "return_lse": True}
    given = tensors(q_len)
    found = fx.load(few.folder, name, **VALUES[name])(*given, **call)
    exact = [x.double() for x in given]
    wanted = fx.attention(*exact, **MODS[name], **call, backend="reference")
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x.double(), y, atol=1e-4, rtol=1e-4)
    assert ran(gpu) == [("forward_split", rows), ("forward_merge", 1)]


def test_other_calls_take_the_ordinary_kernel(few: Bundle, gpu: Emulated) -> None:
    """Too many queries, or too few keys to be worth parts of them."""
    for q_len, kv_len in ((80, KEYS), (1, 60)):
        gpu.launches.clear()
        given = tensors(q_len, kv_len, (2, 2))
        fx.load(few.folder, "window")(*given, q_offset=kv_len - q_len)
        assert [phase for phase, _ in ran(gpu)] == ["forward"]


def test_tables_of_few_queries_are_none_of_the_forward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the scale is tiny, nothing was built that reads these tables without factors."""
    x, y = (torch.randn(4, KEYS, generator=torch.Generator().manual_seed(n)) for n in range(2))
    score = fx.score_mod(
        lambda s, b, h, q, kv: s + x[h, q] * y[h, kv] + fx.cos(0.3 * (q - kv)) * fx.sin(q - kv)
    )
    how = {"dtypes": ["fp16"], "head_dims": [16], "phases": ["forward", "decode"], "jobs": 2}
    folder = tmp_path / "dist"
    fx.build(fx.variant("both", mask="q >= kv", score=score), out=folder, target="cuda:80", **how)
    gpu = stand_in(open_bundle(folder), monkeypatch)
    given, attention = [t.half() for t in tensors(80, 80)], fx.load(folder, x=x, y=y)
    exact = [t.double() for t in given]
    mods = {"mask": "q >= kv", "score": score, "backend": "reference"}
    found, wanted = attention(*given, scale=1e-30), fx.attention(*exact, **mods, scale=1e-30)
    torch.testing.assert_close(found.double(), wanted, atol=6e-3, rtol=6e-3)
    assert [launch.code.phase for launch in gpu.launches] == ["forward"]


def test_without_them_all_calls_do(portable: Bundle, ampere: Emulated) -> None:
    bind.forget()
    fx.load(portable.folder, "window", window=600)(*tensors(1), q_offset=KEYS - 1)
    assert [phase for phase, _ in ran(ampere)] == ["forward"]


def test_launchers_in_c_have_the_ordinary_kernel(few: Bundle) -> None:
    text = few.bytes_of("window.c").decode()
    assert "forward" in text and "split" not in text and "merge" not in text
