"""`fx.explain` beside what runs: the kernels, configurations and plans it names are launched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import flexdsl as fx
from flexdsl.analysis.derivative import describe_steps
from flexdsl.errors import ArgumentError, BackendError, PlanError
from flexdsl.ir import Kind
from flexdsl.runtime import bind, launch, triton_backward, triton_forward
from flexdsl.runtime.explain import of_gpu

HALF, SINGLE = torch.float16, torch.float32
Launch = tuple[str, str, int, int, int, int, str]
_KERNEL = re.compile(
    r"^  (\w+): (\w+), tile (\d+) x (\d+), (\d+) warps, (\d+) stages(?:\n    plan ([\w-]+),)?", re.M
)


WITHOUT_GPU = pytest.mark.skipif(
    torch.cuda.is_available(), reason="beside a GPU kernels are not interpreted"
)


def launched_for(backend: str, bound: bind.Bound, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Launch the kernels of both passes."""
    kernels = launch.compiling(backend, q, v)
    forward = replace(bound, learned=())  # as the operator binds it
    out, lse = triton_forward.forward(kernels, forward, 0.1, q, k, v)(q, k, v)
    given = q, k, v, out, out, lse
    triton_backward.backward(kernels, bound, 0.1, *given)(*given)


def tensors(dim: int, dtype: torch.dtype, heads: int = 4) -> list[Tensor]:
    return [torch.randn(1, heads, 300, dim, dtype=dtype) for _ in range(3)]


def bound_of(q: Tensor, k: Tensor, mask: Any, score: Any) -> bind.Bound:
    lengths = bind.lengths_of(q, k, 0)
    sources = bind.source_of(mask, Kind.MASK), bind.source_of(score, Kind.SCORE)
    reading = bind.read(*sources, lengths, q.device)
    learned = tuple(n for n, x in bind.captured(reading.score).items() if x.requires_grad)
    return bind.bind(reading.mask, reading.score, lengths, (0, 0), learned)


def told(text: str) -> list[Launch]:
    """The kernels of an explanation, in order."""
    found = _KERNEL.findall(text)
    return [(name, lang, *map(int, numbers), plan) for name, lang, *numbers, plan in found]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """The kernels that are launched; they are generated and do not run."""
    seen: list[Launch] = []

    def record(phase: Any, kernel: Any, call: Any, plan: Any, config: Any) -> None:
        numbers = (*config.tile, config.num_warps, config.num_stages)
        kind = "" if plan is None else plan.kind
        seen.append((kernel.entry, kernel.language.value, *numbers, kind))

    monkeypatch.setattr(launch, "launch", record)
    monkeypatch.setattr(launch, "_TOO_LARGE", set())
    return seen


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.1], requires_grad=True)
ROWS, KEYS = (torch.linspace(-1, 1, 300, requires_grad=True) for _ in range(2))
TABLE = torch.linspace(-1, 1, 601, requires_grad=True)
SCORES = {
    "none": None,
    "softcap": fx.stdlib.softcap(5.0),
    "learned slopes": fx.stdlib.alibi(slopes=SLOPES),
    "learned factors": fx.score_mod(lambda s, b, h, q, kv: s + ROWS[q] * KEYS[kv]),
    "learned differences": fx.score_mod(lambda s, b, h, q, kv: s + TABLE[kv - q + 300]),
}
MASKS = {
    "none": None,
    "window": "q >= kv and q - kv < 64",
    "documents": fx.stdlib.document(torch.arange(300) // 70),
}


@pytest.mark.parametrize(
    ("mask", "score"),
    [
        ("none", "none"),
        ("window", "softcap"),
        ("documents", "learned slopes"),
        ("window", "learned differences"),
        ("none", "learned factors"),
    ],
)
@pytest.mark.parametrize("fixed_order", [False, True])
@pytest.mark.parametrize(
    ("dim", "dtype"), [(128, HALF), (64, HALF), (96, HALF), (256, HALF), (64, SINGLE)]
)
@pytest.mark.parametrize(("backend", "gpu"), [("auto", 90), ("triton", 90), ("auto", 80)])
def test_what_is_told_is_what_is_launched(
    backend: str,
    gpu: int,
    dim: int,
    dtype: torch.dtype,
    fixed_order: bool,
    mask: str,
    score: str,
    launched: list[Launch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "capability", lambda device: gpu)
    q, k, v = tensors(dim, dtype)
    bound = bound_of(q, k, MASKS[mask], SCORES[score])
    with deterministic(fixed_order):
        text = "\n".join(of_gpu(backend, gpu, bound, 0.1, q, k, v))
        assert not launched
        launched_for(backend, bound, q, k, v)
    assert told(text) == launched
    language = next(language for entry, language, *_ in launched if entry == "forward")
    assert ("portable kernels, since" in text.splitlines()[0]) == (language == "triton")
    atomics = any(entry == "backward" for entry, *_ in launched)
    assert ("dQ is added up by atomic operations" in text) == atomics


FACTORS = torch.rand(2, 2000)
OF_FEW: dict[str, Any] = {
    "none": None,
    "softcap": SCORES["softcap"],
    "learned slopes": SCORES["learned slopes"],
    "products": fx.score_mod(lambda s, b, h, q, kv: s + FACTORS[0, q] * FACTORS[1, kv]),
    "a table": fx.score_mod(lambda s, b, h, q, kv: s * (1.0 - fx.tanh(0.1 * abs(q - kv)))),
}


@pytest.mark.parametrize("score", OF_FEW)
@pytest.mark.parametrize("mask", ["none", "window of heads"])
@pytest.mark.parametrize(("backend", "gpu"), [("auto", 90), ("hopper", 90), ("auto", 80)])
def test_few_queries(
    backend: str,
    gpu: int,
    mask: str,
    score: str,
    launched: list[Launch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "capability", lambda device: gpu)
    q, k, v = (torch.randn(1, h, n, 128).half() for h, n in ((4, 10), (2, 2000), (2, 2000)))
    masks = {"none": None, "window of heads": "q >= kv - 900 * (h + 1)"}
    bound = bound_of(q, k, masks[mask], OF_FEW[score])
    text = "\n".join(of_gpu(backend, gpu, bound, 0.1, q, k, v))
    launched_for(backend, bound, q, k, v)
    assert told(text) == launched
    forward = [entry for entry, *_ in launched if entry.startswith("forward")]
    assert forward == (["forward"] if backend == "hopper" else ["forward_split", "forward_merge"])
    told_why = "forward by portable kernels, since it has few queries:" in text
    assert told_why == ((backend, gpu) == ("auto", 90))
    if backend != "hopper":
        heads = "a query head has" if mask == "window of heads" else "2 query heads share"
        assert f"few queries: {heads} a program, and the keys are in " in text
        assert ("used backward; not forward: with few queries" in text) == (score == "products")


def test_documents_by_offsets_need_a_table_backward_alone() -> None:
    q, k, v = tensors(64, HALF)
    mask = fx.stdlib.document_causal(offsets=[0, 9, len(q[0, 0])])
    for gpu in (90, 80):
        text = "\n".join(of_gpu("auto", gpu, bound_of(q, k, mask, None), 0.1, q, k, v))
        forward, backward = text.split("\nbackward:")
        assert "bounds from the least and the largest of a tile's rows" in forward
        assert "plan closed-form" in forward and "plan table" not in forward
        assert "plan table" in backward and "no closed form: first[q] is read at q" in backward


def test_reasons_on_a_hopper_gpu() -> None:
    def say(dim: int, dtype: torch.dtype, score: Any = None) -> str:
        q, k, v = tensors(dim, dtype)
        return "\n".join(of_gpu("auto", 90, bound_of(q, k, "q >= kv", score), 0.1, q, k, v))

    assert "16-bit elements, not fp32" in say(128, SINGLE)
    assert "head dimensions 80/80 are none of" in say(80, HALF)
    assert "  backward: gluon, tile 64 x 64" in say(256, HALF).partition("\nbackward:\n")[2]
    at_96 = say(96, HALF).partition("\nbackward:\n")[2]
    assert "  backward: gluon, tile 64 x 128" in at_96
    assert "  backward_sums: triton, tile 64 x 64" in at_96
    learned = say(128, HALF, SCORES["learned slopes"])
    assert "\nbackward:\n" in learned and "  backward_learned_query: triton" in learned
    assert "gradient of slope by slope[h]: the keys of each query row" in learned
    both = say(128, HALF, SCORES["learned factors"])
    assert "since beside it the gradient of ROWS would take a kernel by rows, and that of" in both
    with deterministic(True):
        assert "by atomics, and deterministic algorithms were asked for" in say(128, HALF)
    q, k, v = tensors(80, HALF)
    with pytest.raises(BackendError, match="does not cover this call"):
        of_gpu("hopper", 90, bound_of(q, k, None, None), 0.1, q, k, v)


def test_a_score_that_needs_no_maximum() -> None:
    told = "no running maximum: the score is within 52 of 0, whatever q and k are"
    for cap, dtype, without in (
        (50.0, torch.bfloat16, 1),
        (60.0, torch.bfloat16, 0),
        (50.0, HALF, 0),
    ):
        q, k, v = tensors(128, dtype)
        bound = bound_of(q, k, "q >= kv", fx.stdlib.softcap(cap))
        forward, backward = "\n".join(of_gpu("auto", 90, bound, 0.1, q, k, v)).split("\nbackward:")
        assert (forward.count(told), backward.count(told)) == (without, 0)


@WITHOUT_GPU
def test_nothing_is_launched_for_the_interpreter(launched: list[Launch]) -> None:
    q, k, v = (x.requires_grad_() for x in tensors(32, SINGLE))
    text = fx.explain(q, k, v, mask="q >= kv", backend="triton")
    assert not launched
    fx.attention(q, k, v, mask="q >= kv", backend="triton").sum().backward()
    assert told(text) == launched


def test_the_executor_of_the_cpu() -> None:
    q, k, v = tensors(32, SINGLE)
    text = fx.explain(q, k, v, mask=MASKS["window"], score=SCORES["softcap"])
    assert "backend cpu" in text and "score softcap, as kernels compute it: " in text
    plan = fx.plan(MASKS["window"], 300, 300)
    for line in plan.explain().splitlines():
        assert f"  {line}" in text
    given = fx.plan(MASKS["window"], 300, 300, tile=(32, 16))
    assert "of 32 x 16 tiles live" in fx.explain(q, k, v, mask=given)
    assert "dense float64" in fx.explain(q, k, v, backend="reference")


def test_scores_without_a_gradient_are_said() -> None:
    q, k, v = tensors(32, SINGLE)
    rounded = fx.score_mod(lambda s, b, h, q, kv: fx.floor(s))
    words = fx.explain(q, k, v, score=rounded).partition("as kernels compute it: floor(score)")[2]
    assert describe_steps(rounded.program).splitlines()[0] in words
    assert "log2(e)" in fx.explain(q, k, v).splitlines()[-1]


@WITHOUT_GPU
def test_no_pair() -> None:
    q, k, _ = tensors(32, SINGLE)
    text = fx.explain(q, k[:, :, :0], k[:, :, :0], backend="triton")
    assert "no kernel is launched" in text and not told(text)


def test_mistakes_are_those_of_attention() -> None:
    q, k, v = tensors(32, SINGLE)
    with pytest.raises(ArgumentError, match="differ in head dimension"):
        fx.explain(q, k[..., :8], v)
    with pytest.raises(ArgumentError, match="there is no such one"):
        fx.explain(q, k, v, backend="tpu")
    with pytest.raises(PlanError, match="q_len=8"):
        fx.explain(q, k, v, mask=fx.plan("q >= kv", 8, 300))
