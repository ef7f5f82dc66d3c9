"""Kernels of a training step that are compiled side by side: those that the passes then ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.runtime import ahead, executors, launch
from flexdsl.runtime.ahead import compile_step

ROOT = Path(__file__).parent.parent.parent
BACKWARD = ["backward_rows", "backward", "backward_sums"]
KERNELS = {
    "causal": ["forward", *BACKWARD],
    "tables": ["differences", "forward", *BACKWARD, "backward_diagonal"],
}


def child(caches: Path, *arguments: str) -> dict[str, Any]:
    """What a process compiled for one step."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    for of in ("FLEXDSL_CACHE_DIR", "TRITON_CACHE_DIR"):
        environment[of] = str(caches / of)
    command = [sys.executable, "-m", "tests.runtime.ahead_child", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", KERNELS)
def test_threads_compile_what_the_passes_launch(name: str, tmp_path: Path) -> None:
    found = child(tmp_path, name)
    assert sorted(of for of, _, _ in found["compiled"]) == sorted(KERNELS[name])
    for of, thread, cached in found["compiled"]:
        assert thread.startswith("flexdsl-compile") and not cached, of
    assert found["coming"] >= sum(of.startswith("backward") for of in KERNELS[name])
    again = child(tmp_path, name, "60")  # from triton's cache, on a machine however busy
    assert again["coming"] == 0 and all(cached for _, _, cached in again["compiled"])
    begun = [of for of, _, _ in again["compiled"][: again["had"]]]
    assert sorted(begun) == sorted(n for n in KERNELS[name] if not n.startswith("backward"))


def test_a_process_ends_that_is_compiling(tmp_path: Path) -> None:
    found = child(tmp_path, "causal!")
    assert found["coming"] == len(BACKWARD) and len(found["compiled"]) < 4


@pytest.mark.gpu
def test_a_step_on_a_gpu(tmp_path: Path) -> None:
    found = child(tmp_path, "gpu")
    assert all(error < 0.05 for error in found["errors"]), found["errors"]
    assert len(found["compiled"]) >= 3  # of a GPU other than Hopper: forward, rows, dQ, dK and dV
    for of, thread, _ in found["compiled"]:
        assert thread.startswith("flexdsl-compile"), of


def never(*_: Any) -> Any:
    raise AssertionError("it was asked for")


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_nothing_is_begun_on_the_cpu(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "triton" and torch.cuda.is_available():
        pytest.skip("beside a GPU kernels are not interpreted")
    monkeypatch.setattr(ahead, "compile_step", never)
    q, k, v = (torch.randn(1, 2, 20, 16).requires_grad_() for _ in range(3))
    fx.attention(q, k, v, mask="q >= kv", backend=backend).sum().backward()


def tensors(**options: Any) -> list[Any]:
    return [SimpleNamespace(shape=(1, 2, 20, 64), device="gpu", **options) for _ in range(3)]


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Tells an executor of a call on a GPU; what is begun, by the bound calls of both passes."""
    seen: list[Any] = []
    monkeypatch.setattr(executors, "_EXPECTED", set())
    monkeypatch.setattr(executors, "_kernels", lambda *_: launch.Compiling(True, may_split=True))
    monkeypatch.setattr(ahead, "compile_step", lambda *given: seen.append(given[1:3]) or "coming")

    def expect(capturing: bool = False, learned: tuple[int, ...] = (), **of: Any) -> list[Any]:
        seen.clear()
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        bounds: dict[Any, Any] = {}

        def bound_of(learned: tuple[int, ...]) -> Any:
            return bounds.setdefault(learned, SimpleNamespace(passes=SimpleNamespace()))

        given = tensors(**{"is_cuda": True, "dtype": torch.float16, **of})
        executors.EXECUTORS["auto"].expect((None, None), learned, bound_of, 1.0, *given)
        assert all(seen == [(bounds[()], bounds[learned])] for _ in seen)
        assert all(bounds[learned].passes.coming == "coming" for _ in seen)
        return seen

    return expect


def test_a_kind_of_call_is_begun_once(expected: Callable[..., list[Any]]) -> None:
    assert not expected(is_cuda=False) and not expected(capturing=True)
    assert expected() and not expected()
    assert expected(learned=(1,)) and not expected(learned=(1,))
    assert expected(dtype=torch.bfloat16)


def test_what_fails_ahead_is_left_to_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(ahead.triton_forward, "forward", fail)
    given: list[Any] = [None, None, 1.0, *tensors()]
    assert compile_step(launch.Compiling(True, may_split=True), *given) == ()
