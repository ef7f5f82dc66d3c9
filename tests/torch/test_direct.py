"""Without torch's dispatcher where nobody watches, and through it where somebody does."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import flexdsl as fx
from flexdsl.runtime import bind, executors, operator, operator_direct


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def inputs(**options):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1, 2, 40, 16, generator=generator).requires_grad_(**options)] * 3


@pytest.fixture
def refused(monkeypatch):
    """The operators are not to be called."""

    def refuse(*_):
        raise AssertionError("the dispatcher was asked")

    monkeypatch.setattr(operator, "attention", refuse)
    monkeypatch.setattr(operator, "attention_backward", refuse)


def test_nobody_watches(refused):
    q, k, v = inputs()
    bias = torch.linspace(-1, 1, 2, requires_grad=True)
    score = fx.score_mod(lambda s, b, h, q, kv: s + bias[h] * (kv - q))
    mask = fx.stdlib.document([0] * 25 + [1] * 15)
    out = fx.attention(q, k, v, mask=mask, score=score)
    found = torch.autograd.grad(out.sum(), (q, bias))
    wide = [x.detach().double().requires_grad_() for x in (q, bias)]
    same = fx.score_mod(lambda s, b, h, q, kv: s + wide[1][h] * (kv - q))
    wanted = fx.attention(wide[0], wide[0], wide[0], mask=mask, score=same, backend="reference")
    for a, b in zip(found, torch.autograd.grad(wanted.sum(), wide), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


def test_a_dispatch_mode_sees_both_passes():
    q, k, v = inputs()
    mask = fx.stdlib.causal()
    with Seen() as seen:
        out = fx.attention(q, k, v, mask=mask)
        out.sum().backward()
    assert {"flexdsl::attention", "flexdsl::attention_backward"} <= set(seen.names)
    direct = fx.attention(q, k, v, mask=mask)
    assert torch.equal(out, direct)
    with Seen() as seen:  # begins to watch between the two
        direct.sum().backward()
    assert "flexdsl::attention_backward" in seen.names


def test_the_profiler_sees_the_operator():
    q, k, v = inputs()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fx.attention(q, k, v, mask=fx.stdlib.causal())
    assert "flexdsl::attention" in {e.name for e in profile.events()}


def test_who_watches():
    x = torch.zeros(2)
    assert not operator_direct.is_watched(x, torch.nn.Parameter(x))
    with Functions():
        assert operator_direct.is_watched(x)
    assert torch.func.vmap(lambda y: y + int(operator_direct.is_watched(y)))(x).tolist() == [1, 1]
    assert operator_direct.is_watched(torch.nn.Buffer(x), x.as_subclass(type("X", (type(x),), {})))


def test_bound_once_and_again_after_a_change(monkeypatch):
    seen = []
    executor = executors.EXECUTORS["cpu"]

    def forward(bound, *rest):
        seen.append(bound)
        return executor.forward(bound, *rest)

    monkeypatch.setitem(executors.EXECUTORS, "cpu", type(executor)(forward, executor.backward))
    ids = torch.arange(40) // 9
    bias = torch.zeros(79)
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    score = fx.score_mod(lambda s, b, h, q, kv: s + bias[kv - q + 39])
    q, k, v = (x.detach() for x in inputs())

    def call():
        return fx.attention(q, k, v, mask=mask, score=score)

    first = call()
    assert torch.equal(first, call()) and seen[0] is seen[1]
    bias[39] = 5.0  # an element that a kernel reads, and that decides no index
    changed = call()
    assert seen[2] is seen[0] and not torch.equal(changed, first)
    ids.fill_(0)
    other = call()
    assert seen[3] is not seen[0] and not torch.equal(other, changed)
    wanted = fx.attention(
        q.double(), k.double(), v.double(), mask=mask, score=score, backend="reference"
    )
    torch.testing.assert_close(other.double(), wanted, rtol=1e-4, atol=1e-4)
    bind.forget()
    assert torch.equal(call(), other) and seen[4] is not seen[3]


def test_an_inference_tensor_in_a_mask():
    with torch.inference_mode():
        ids = torch.arange(40) // 9
    q, k, v = inputs()
    out = fx.attention(q, k, v, mask=fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv]))
    same = fx.attention(q, k, v, mask=fx.stdlib.document(torch.arange(40) // 9))
    (found,) = torch.autograd.grad(out.sum(), q)
    (wanted,) = torch.autograd.grad(same.sum(), q)
    assert torch.equal(found, wanted)
