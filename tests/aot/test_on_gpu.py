"""Bundles on a real Hopper GPU: numbers, cold starts, C, CUDA graphs, an exported model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.errors import BundleError
from tests.aot.conftest import near
from tests.aot.load_child import CASES, inputs, oracle
from tests.aot.load_child import error as error_of
from tests.aot.test_preparing import product

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parent.parent.parent
CHILD = ROOT / "tests" / "aot" / "load_child.py"
WINDOW = "mask window(window: int = 128) = q >= kv and q - kv < window"
IN_C = "mask sliding_window(window: int = 1024) = q >= kv and q - kv < window"
CAUSAL = "mask causal() = q >= kv"


def variants() -> list[Any]:
    ids = torch.arange(1000, dtype=torch.int32) // 130
    slopes = torch.linspace(0.5, 0.01, 4).requires_grad_()
    offsets = torch.arange(0, 1001, 125)
    return [
        fx.variant("window", mask=WINDOW),
        fx.variant("documents", mask=lambda b, h, q, kv: (ids[q] == ids[kv]) & (q >= kv)),
        fx.variant("packed", mask=fx.stdlib.document_causal(offsets=offsets)),
        fx.variant(
            "slopes", mask=CAUSAL, score=lambda score, b, h, q, kv: score + slopes[h] * (kv - q)
        ),
        fx.variant(
            "capped", mask=CAUSAL, score="score capped(cap: float = 5.0) = cap * tanh(score / cap)"
        ),
        fx.variant("strided", mask="q >= kv and (q - kv) % 3 == 0"),
    ]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "shipped"
    fx.build(variants(), out=folder, target="cuda:90", dtypes=["bf16", "fp16"], head_dims=[64, 128])
    moved = folder.with_name("moved")  # a bundle is relocatable
    folder.rename(moved)
    return moved


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in_c") / "dist"
    fx.build(IN_C, out=folder, target="cuda:90")
    return folder


def child(bundle: Path, dtype: str, *cases: str) -> dict[str, Any]:
    command = [sys.executable, str(CHILD), str(bundle), dtype, *cases]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_numbers_without_a_compiler(bundle: Path, dtype: str) -> None:
    found = child(bundle, dtype, *CASES)
    print(json.dumps(found, indent=1))
    for case in found["cases"]:
        assert case["out"] < 0.01, case
        assert all(e < 0.02 for e in case["gradients"]), case


@pytest.mark.parametrize("case", ["window", "slopes", "capped"])
def test_load_and_first_call_take_less_than_50_ms(bundle: Path, case: str) -> None:
    found = child(bundle, "bfloat16", case)
    print(found)
    (facts,) = found["cases"]
    assert facts["load_ms"] + facts["first_call_ms"] < 50.0


def test_attention_with_a_bundle_is_attention(bundle: Path) -> None:
    case = CASES["window"]
    q, k, v, d_out = inputs(case, torch.bfloat16)
    mask = fx.parse(WINDOW)
    out = fx.attention(q, k, v, mask=mask, bundle=bundle)
    gradients = torch.autograd.grad(out, (q, k, v), d_out)
    expected = fx.attention(q, k, v, mask=mask)
    wanted = torch.autograd.grad(expected, (q, k, v), d_out)
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=1e-2)
    for g, w in zip(gradients, wanted, strict=True):
        assert error_of(g, w.double()) < 0.01


@pytest.mark.parametrize("dims", [(192, 128), (256, 256)], ids=str)
def test_a_bundle_of_many_columns(dims: tuple[int, int], tmp_path: Path) -> None:
    fx.build(WINDOW, out=tmp_path / "wide", target="cuda:90", head_dims=[dims])
    options = {"device": "cuda", "dtype": torch.bfloat16}
    q, k, v, d_out = (torch.randn(1, 2, 400, dims[i], **options) for i in (0, 0, 1, 1))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    results = []
    for call in (fx.load(tmp_path / "wide", "window"), partial(fx.attention, mask=WINDOW)):
        out = call(*leaves)
        results.append([out, *torch.autograd.grad(out, leaves, d_out)])
    for found, wanted in zip(*results, strict=True):
        assert error_of(found, wanted.double()) < 0.01


def test_bits_factors_and_tables_of_a_bundle(tmp_path: Path) -> None:
    """What kernels of the bundle write before those that read it, forward and backward."""
    x, y = (torch.randn(2, 400) for _ in range(2))
    mask, score = near(), product(x, y)
    fx.build(fx.variant("both", mask=mask, score=score), out=tmp_path / "both", target="cuda:90")
    options = {"device": "cuda", "dtype": torch.bfloat16}
    *inputs, d_out = (torch.randn(1, 2, 400, 128, **options) for _ in range(4))
    leaves = [t.requires_grad_() for t in inputs]
    x, y = x.cuda(), y.cuda()
    out = fx.load(tmp_path / "both", x=x, y=y)(*leaves)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    wanted = fx.attention(*exact, mask=mask, score=product(x, y), backend="reference")
    assert error_of(out, wanted) < 0.01
    gradients = torch.autograd.grad(out, leaves, d_out)
    of_reference = torch.autograd.grad(wanted, exact, d_out.double())
    for found, exactly in zip(gradients, of_reference, strict=True):
        assert error_of(found, exactly) < 0.02


def test_few_queries_of_a_bundle(tmp_path: Path) -> None:
    fx.build(WINDOW, out=tmp_path / "few", target="cuda:90", phases=["forward", "decode"])
    options = {"device": "cuda", "dtype": torch.bfloat16}
    shapes = (8, 3), (2, 9000), (2, 9000)
    given = [torch.randn(1, heads, length, 128, **options) for heads, length in shapes]
    attention, call = fx.load(tmp_path / "few", "window", window=7000), {"q_offset": 8997}
    exact = [x.double() for x in given]
    wanted = fx.attention(*exact, mask="q >= kv and q - kv < 7000", **call, backend="reference")
    for _ in range(2):
        assert error_of(attention(*given, **call), wanted) < 0.01


def test_misses_are_errors(bundle: Path, tmp_path: Path) -> None:
    q, k, v, _ = inputs(CASES["window"], torch.bfloat16)
    with pytest.raises(BundleError, match="no bundle has the kernel of"):
        fx.attention(q, k, v, mask="q > kv", bundle=bundle)
    with pytest.raises(BundleError, match="head dimensions 32/32"):
        fx.load(bundle, "window")(*(x[..., :32] for x in (q, k, v)))
    fx.build(WINDOW, out=tmp_path / "other", target="cuda:80", head_dims=[128])
    with pytest.raises(BundleError, match="cuda:80"):
        fx.load(tmp_path / "other")(q, k, v)


def test_bundles_of_the_environment_and_no_compiler(bundle: Path) -> None:
    code = f"""
import torch, flexdsl as fx
q = torch.randn(1, 2, 300, 128, device="cuda", dtype=torch.bfloat16)
out = fx.attention(q, q, q, mask={WINDOW!r})
try:
    fx.attention(q, q, q, mask="q >= kv - 1")
except fx.FlexdslError as error:
    print(error)
import sys
print("flexdsl.runtime.launch" in sys.modules)
"""
    environment = os.environ | {"FLEXDSL_BUNDLES": str(bundle), "FLEXDSL_NO_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no bundle has the kernel of mask" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_a_cuda_graph_replays_a_bundle(bundle: Path) -> None:
    case = CASES["window"]
    q, k, v, _ = (x.detach() for x in inputs(case, torch.bfloat16))
    attention = fx.load(bundle, "window", window=200)
    attention(q, k, v)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention(q, k, v)
    q.copy_(torch.randn_like(q))
    graph.replay()
    assert error_of(out, oracle(case, {"window": 200}, q, k, v)) < 0.01


def libraries() -> list[str]:
    """Options that link the driver."""
    done = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if "libcuda.so.1 " in line]
    found = [Path(line.split()[-1]) for line in lines]
    if not found:
        return ["-lcuda"]
    return [str(found[0])]


def compile_in_c(bundle: Path, folder: Path) -> Path:
    import triton

    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    program = folder / "sliding_window"
    sources = [str(ROOT / "examples" / "c" / "main.c"), str(bundle / "sliding_window.c")]
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", f"-I{include}", f"-I{bundle}"]
    command = ["gcc", *flags, *sources, "-o", str(program), *libraries(), "-lm"]
    command.append("-Wl,--allow-shlib-undefined")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_c_gives_the_numbers_of_python(in_c: Path, tmp_path: Path) -> None:
    program = compile_in_c(in_c, tmp_path)
    batch, heads, length, window = 2, 3, 777, 130
    shape = batch, heads, length, 128
    torch.manual_seed(0)
    q, k, v, d_out = (torch.randn(shape, dtype=torch.bfloat16) for _ in range(4))
    given, got = tmp_path / "in.bin", tmp_path / "out.bin"
    flat = torch.stack([q, k, v, d_out]).view(torch.int16)
    given.write_bytes(flat.numpy().tobytes())
    words = [str(n) for n in (batch, heads, length, window)]
    command = [str(program), str(in_c), *words, str(given), str(got)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    data = bytearray(got.read_bytes())
    count = 4 * q.numel()
    found = torch.frombuffer(data, dtype=torch.bfloat16, count=count).reshape(4, *shape)
    lse = torch.frombuffer(data, dtype=torch.float32, offset=2 * count).reshape(shape[:3])
    attention = fx.load(in_c, window=window)
    leaves = [x.cuda().requires_grad_() for x in (q, k, v)]
    out, expected_lse = attention(*leaves, return_lse=True)
    gradients = torch.autograd.grad(out, leaves, d_out.cuda())
    assert torch.equal(found[0], out.cpu()) and torch.equal(lse, expected_lse.cpu())
    # dQ is added up by atomic operations, in any order.
    assert torch.equal(found[2], gradients[1].cpu()) and torch.equal(found[3], gradients[2].cpu())
    assert error_of(found[1], gradients[0].double().cpu()) < 0.01
    refused = subprocess.run([str(program), str(in_c), "1", "1", "64", "0"], capture_output=True)
    assert refused.returncode == 2 and b"proven" in refused.stderr


class Model(torch.nn.Module):
    """Attention of a bundle inside of a model."""

    def __init__(self, bundle: Path) -> None:
        super().__init__()
        self.mask, self.bundle = fx.parse(WINDOW), str(bundle)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return fx.attention(q, k, v, mask=self.mask, bundle=self.bundle).sin()


# Packaging imports modules of torch that torch itself warns of.
@pytest.mark.filterwarnings("default")
def test_a_packaged_model_runs_with_a_bundle(bundle: Path, tmp_path: Path) -> None:
    q, k, v, _ = (x.detach() for x in inputs(CASES["window"], torch.bfloat16))
    model = Model(bundle)
    exported = torch.export.export(model, (q, k, v))
    package = torch._inductor.aoti_compile_and_package(
        exported, package_path=str(tmp_path / "model.pt2")
    )
    torch.save([q, k, v], tmp_path / "inputs.pt")
    code = f"""
import torch, flexdsl.runtime.operator
run = torch._inductor.aoti_load_package({package!r})
out = run(*torch.load({str(tmp_path / "inputs.pt")!r}))
torch.save(out, {str(tmp_path / "out.pt")!r})
"""
    environment = os.environ | {"FLEXDSL_BUNDLES": str(bundle), "FLEXDSL_NO_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), model(q, k, v))
