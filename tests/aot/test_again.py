"""Kernels that are launched again get what the call is about now: numbers on an emulated GPU.

Each test makes a kind of call twice or more, changes one thing, and holds the next call against
the dense float64 reference.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

import flexdsl as fx
from flexdsl.bundle.files import Bundle
from flexdsl.errors import BundleError, CaptureError
from flexdsl.runtime import operator
from tests.aot.conftest import IDS, SLOPES, documents
from tests.aot.emulation import Emulated
from tests.aot.test_loaded import assert_equal_to_the_reference, tensors

CAUSAL = "q >= kv"


def fresh(seed: int, heads: int = 2, kv_heads: int = 2) -> list[Tensor]:
    """q, k and v of their own."""
    torch.manual_seed(seed)
    return [torch.randn(1, h, 45, 16).requires_grad_() for h in (heads, kv_heads, kv_heads)]


@pytest.fixture
def no_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher is not to be asked."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the dispatcher was asked")

    monkeypatch.setattr(operator, "attention", refuse)
    monkeypatch.setattr(operator, "attention_backward", refuse)


@pytest.mark.usefixtures("no_operator")
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_other_tensors(ampere: Emulated, portable: Bundle, kv_heads: int) -> None:
    attention = fx.load(portable.folder, "window")
    for seed in range(3):
        leaves = fresh(seed, 2, kv_heads)
        assert_equal_to_the_reference(attention(*leaves), leaves, mask="q >= kv and q - kv < 9")
    assert len(ampere.launches) == 3 * 4


def test_a_launch_is_worked_out_once(
    ampere: Emulated, portable: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention, leaves = fx.load(portable.folder, "window"), fresh(0)

    def step() -> None:
        torch.autograd.grad(attention(*leaves).sum(), leaves)

    step()
    monkeypatch.setattr("flexdsl.runtime.bundled.launch_of", None)
    step()
    step()
    assert len(ampere.launches) == 3 * 4


@pytest.mark.parametrize("name", ["ids", "slopes"])
def test_a_captured_tensor_changes_in_place(ampere: Emulated, portable: Bundle, name: str) -> None:
    captured = (IDS if name == "ids" else SLOPES).detach().clone()
    variant = "documents" if name == "ids" else "slopes"
    attention, leaves = fx.load(portable.folder, variant, **{name: captured}), fresh(1)

    def check() -> None:
        call: dict[str, Any] = {"mask": documents(captured)}
        if name == "slopes":
            score = fx.score_mod(lambda s, b, h, q, kv: s + captured[h] * (kv - q))
            call = {"mask": CAUSAL, "score": score}
        assert_equal_to_the_reference(attention(*leaves), leaves, **call)

    check()
    check()
    captured.copy_(captured.flip(0))
    check()
    captured.data = torch.zeros_like(captured)  # another memory under the same object
    check()


def test_a_captured_tensor_is_replaced(ampere: Emulated, portable: Bundle) -> None:
    attention, leaves = fx.load(portable.folder, "documents"), fresh(2)
    for ids in (IDS, IDS, IDS.flip(0).contiguous(), torch.zeros_like(IDS)):
        assert_equal_to_the_reference(attention(*leaves, ids=ids), leaves, mask=documents(ids))


def test_a_number_that_a_mod_captures_changes(ampere: Emulated, portable: Bundle) -> None:
    window = 4
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < window)
    leaves = fresh(3)
    for window in (4, 4, 11, 11, 4):
        out = fx.attention(*leaves, mask=mask, bundle=portable.folder)
        assert_equal_to_the_reference(out, leaves, mask=f"q >= kv and q - kv < {window}")


def test_scale_and_position(ampere: Emulated, portable: Bundle) -> None:
    attention, leaves = fx.load(portable.folder, "window", window=20), fresh(4)
    for scale in (None, 0.5, 0.5, -0.5, -0.5, 0.0, None):
        for q_offset in (0, 7):
            out = attention(*leaves, scale=scale, q_offset=q_offset)
            call = {"scale": scale, "q_offset": q_offset}
            assert_equal_to_the_reference(out, leaves, mask="q >= kv and q - kv < 20", **call)


def test_numbers_of_the_wrong_kind_are_refused_after_right_ones(
    ampere: Emulated, portable: Bundle
) -> None:
    attention, leaves = fx.load(portable.folder, "window"), fresh(4)
    attention(*leaves, scale=1.0, q_offset=1)
    for wrong in ({"scale": True}, {"q_offset": True}, {"q_offset": 1.0}, {"scale": [1.0]}):
        with pytest.raises(fx.FlexdslError, match="attention takes"):
            attention(*leaves, **({"scale": 1.0, "q_offset": 1} | wrong))


def shifted(x: Tensor) -> Tensor:
    """The same numbers, 4 bytes from where memory begins."""
    memory = torch.empty(x.numel() + 1)[1:]
    return memory.view(x.shape).copy_(x.detach())


def transposed(x: Tensor) -> Tensor:
    """The same numbers in memory [B, L, H, D]."""
    return x.detach().transpose(1, 2).contiguous().transpose(1, 2)


def by_columns(x: Tensor) -> Tensor:
    """The same numbers, those of a column next to each other."""
    return x.detach().transpose(2, 3).contiguous().transpose(2, 3)


@pytest.mark.parametrize("other", [shifted, transposed, by_columns])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_other_strides_and_addresses(
    ampere: Emulated, portable: Bundle, other: Any, which: int
) -> None:
    attention, leaves = fx.load(portable.folder, "window"), fresh(5)
    for change in (lambda x: x, lambda x: x, other, other, lambda x: x):
        mine = list(leaves)
        mine[which] = change(leaves[which]).detach().requires_grad_()
        assert_equal_to_the_reference(attention(*mine), mine, mask="q >= kv and q - kv < 9")


def gradients(out: Tensor, leaves: list[Tensor], d_out: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(out, leaves, d_out, retain_graph=True))


@pytest.mark.parametrize(
    "other", [shifted, transposed, by_columns, lambda x: x[..., :1].expand_as(x)]
)
def test_other_gradients_of_the_output(ampere: Emulated, portable: Bundle, other: Any) -> None:
    attention, leaves = fx.load(portable.folder, "window"), fresh(6)
    out = attention(*leaves)
    d_out = torch.randn(out.shape)
    before = gradients(out, leaves, d_out)
    lying = other(d_out)
    wanted = gradients(out, leaves, lying.contiguous().clone())
    for found, known in zip(gradients(out, leaves, lying), wanted, strict=True):
        torch.testing.assert_close(found, known)
    for found, known in zip(gradients(out, leaves, d_out), before, strict=True):
        assert torch.equal(found, known)


def test_a_gradient_of_lse_in_some_calls(ampere: Emulated, portable: Bundle) -> None:
    attention, leaves = fx.load(portable.folder, "window"), fresh(7)
    mask = "q >= kv and q - kv < 9"
    wanted, wanted_lse = fx.attention(*leaves, mask=mask, backend="reference", return_lse=True)
    out, lse = attention(*leaves, return_lse=True)
    for of in (
        lambda o, m: o.sum(),
        lambda o, m: o.sum() + m.sum(),
        lambda o, m: o.sum() + m[..., 1:].sum(),
        lambda o, m: o.sum(),
    ):
        found = torch.autograd.grad(of(out, lse), leaves, retain_graph=True)
        known = torch.autograd.grad(of(wanted, wanted_lse), leaves, retain_graph=True)
        for a, b in zip(found, known, strict=True):
            torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)


def test_what_autograd_keeps_is_laid_out_anew(ampere: Emulated, portable: Bundle) -> None:
    attention, leaves = fx.load(portable.folder, "window"), fresh(8)
    known = torch.autograd.grad(attention(*leaves).sum(), leaves)
    for unpack in (shifted, transposed, by_columns):

        def of_four(x: Tensor, unpack: Any = unpack) -> Tensor:
            return unpack(x) if x.dim() == 4 else x

        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, of_four):
            out = attention(*leaves)
        for a, b in zip(torch.autograd.grad(out.sum(), leaves), known, strict=True):
            torch.testing.assert_close(a, b)


def test_gradients_that_are_wanted_by_turns(ampere: Emulated, portable: Bundle) -> None:
    leaves, slopes = fresh(9), SLOPES.detach().clone()
    attention = fx.load(portable.folder, "slopes", slopes=slopes)
    assert not attention(*(x.detach() for x in leaves)).requires_grad
    assert attention(*leaves).requires_grad
    with torch.no_grad():
        assert not attention(*leaves).requires_grad
    slopes.requires_grad_()
    out = attention(*(x.detach() for x in leaves))
    assert out.requires_grad
    (found,) = torch.autograd.grad(out.sum(), slopes)
    score = fx.score_mod(lambda s, b, h, q, kv: s + slopes[h] * (kv - q))
    same = fx.attention(*leaves, mask=CAUSAL, score=score, backend="reference")
    torch.testing.assert_close(
        found, torch.autograd.grad(same.sum(), slopes)[0], rtol=1e-3, atol=1e-3
    )


def test_a_mask_begins_to_want_a_gradient() -> None:
    gate, leaves = torch.rand(45), tensors()
    mask = fx.mask_mod(lambda b, h, q, kv: gate[kv] > 0.5)
    fx.attention(*leaves, mask=mask)
    gate.requires_grad_()
    with pytest.raises(CaptureError, match="only the mask loads from it"):
        fx.attention(*leaves, mask=mask)
    with torch.no_grad():
        fx.attention(*leaves, mask=mask)


def test_another_stream(ampere: Emulated, portable: Bundle) -> None:
    attention, leaves = fx.load(portable.folder, "window"), fresh(10)
    attention(*leaves)
    ampere.current_stream = 8
    attention(*leaves)
    assert [launch.stream for launch in ampere.launches] == [7, 8]


def test_deterministic_algorithms_after_others(hopper: Bundle, hopper_gpu: Emulated) -> None:
    leaves = [torch.zeros(1, 2, 64, 128, dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    attention = fx.load(hopper.folder)

    def step() -> None:
        torch.autograd.grad(attention(*leaves).sum(), leaves)

    step()
    step()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(BundleError, match="adds dQ up by atomics"):
            step()
    finally:
        torch.use_deterministic_algorithms(False)
    step()


def functions_called(work: Callable[[], Any]) -> int:
    """How many functions of the library, in Python, `work` calls in this thread."""
    folder = str(Path(fx.__file__).parent)
    names: list[str] = []

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(folder):
            names.append(frame.f_code.co_qualname)

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    # A tensor map is made where a result lies at a new address, which no test can tell.
    return len([n for n in names if n != "_Maps.__missing__"])


def test_a_call_made_again_is_short(hopper: Bundle, hopper_gpu: Emulated) -> None:
    """What a call costs the host is Python's: a function more is 3 % of it."""
    attention = fx.load(hopper.folder)
    leaves = [torch.zeros(1, 2, 64, 128, dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    plain, d_out = [x.detach() for x in leaves], torch.zeros(1, 2, 64, 128, dtype=torch.bfloat16)
    for _ in range(2):
        torch.autograd.grad(attention(*leaves), leaves, d_out)
        attention(*plain)
    out: list[Tensor] = []
    counts = [
        functions_called(lambda: attention(*plain)),
        functions_called(lambda: out.append(attention(*leaves))),
        functions_called(lambda: torch.autograd.grad(out[0], leaves, d_out)),
    ]
    assert all(count <= most for count, most in zip(counts, (21, 22, 27), strict=True)), counts


def test_tensor_maps_are_of_the_tensors_of_the_call(hopper: Bundle, hopper_gpu: Emulated) -> None:
    attention = fx.load(hopper.folder)
    calls = [[torch.zeros(1, 2, 64, 128, dtype=torch.bfloat16) for _ in range(3)] for _ in range(2)]
    for q, k, v in (*calls, *calls):
        out = attention(q, k, v)
        (forward,) = hopper_gpu.launches[-1:]
        given = {
            p.argument.of: hopper_gpu.maps[int.from_bytes(words[0], "little") - 1][1]
            for p, words in zip(forward.code.parameters, forward.values, strict=True)
            if p.tensor_map is not None
        }
        wanted = {"query": q, "key": k, "value": v, "out": out}
        assert given == {n: x.data_ptr() for n, x in wanted.items() if n in given}
        assert set(given) >= {"query", "key", "value"}
