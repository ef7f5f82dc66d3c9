"""Calls that are found again: whoever begins to watch sees them, and none outlives its mod."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import flexdsl as fx
from flexdsl.ir import Kind
from flexdsl.runtime import bind, remembered, validate
from support.calls import Shape, assert_near, oracle

SHAPE = Shape(q_len=20, kv_len=20)


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def checked(monkeypatch):
    """One entry for each call whose arguments are checked: those that are not found."""
    calls = []
    original = validate.check_tensors

    def check_tensors(*tensors):
        calls.append(tensors)
        original(*tensors)

    monkeypatch.setattr(validate, "check_tensors", check_tensors)
    return calls


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@st.composite
def laid_out(draw):
    """A tensor: its shape, type, the order of its strides, where it begins, and its gradient."""
    heads, length = draw(st.sampled_from([(1, 4), (2, 4), (2, 5)]))
    kind = draw(st.sampled_from(DTYPES))
    order = draw(st.permutations(range(3)))
    skipped = draw(st.sampled_from([0, 0, 8, 2]))
    shape = torch.Size([1, heads, length, 8])
    memory = torch.empty(shape.numel() + skipped, dtype=kind)[skipped:]
    x = memory.view([shape[i] for i in order] + [8]).permute(*torch.tensor(order).argsort(), 3)
    return x.requires_grad_(draw(st.booleans()))


def strides(x):
    """Those that decide where an element lies: of lengths above 1."""
    found = [(i, s) for i, (n, s) in enumerate(zip(x.shape, x.stride(), strict=True)) if n > 1]
    dense = [(i, math.prod(x.shape[i + 1 :])) for i, _ in found]
    return "contiguous" if found == dense else list(x.stride())


def kind_of_call(numbers, tensors, grad):
    """All that a call's work may depend on, each part by its own words."""
    of_each = [
        (list(x.shape), strides(x), str(x.dtype), str(x.device), x.data_ptr() % 16) for x in tensors
    ]
    wanted = any(x.requires_grad for x in tensors)
    return [(repr(n), type(n)) for n in numbers], of_each, wanted, grad


NUMBERS = st.tuples(st.sampled_from([None, 1, 1.0, True, 0.5]), st.sampled_from([0, 1, False, 1.0]))


@given(NUMBERS, NUMBERS, *[st.tuples(laid_out(), laid_out(), laid_out())] * 2, *[st.booleans()] * 2)
def test_calls_are_remembered_in_one_place_if_all_is_equal(numbers, others, a, b, grad, other_grad):
    def place(numbers, tensors, grad):
        with torch.set_grad_enabled(grad):
            return remembered.place_of(None, None, *numbers, "auto", *tensors)[1]

    for second in ((others, b, other_grad), (numbers, a, grad), (numbers, (a[0], *b[1:]), grad)):
        same = place(numbers, a, grad) == place(*second)
        assert same == (kind_of_call(numbers, a, grad) == kind_of_call(*second))


def test_tensors_that_a_transform_left_behind():
    q, k, v = SHAPE.tensors()
    left = []
    torch.func.grad(lambda x: left.append(x) or x.sum())(q)
    leaf = k.clone().requires_grad_()
    warm(fx.attention, q, leaf, v)
    wanted = fx.attention(q, leaf, v)
    for _ in range(2):
        assert torch.equal(fx.attention(left[0], leaf, v), wanted)


def warm(call, *tensors, **options):
    for _ in range(2):
        call(*tensors, **options)


@pytest.mark.parametrize("mask", [None, "q >= kv", fx.stdlib.causal(), fx.plan("q >= kv", 20, 20)])
def test_a_call_is_checked_once(mask, checked):
    bind.forget()
    tensors = SHAPE.tensors()
    warm(fx.attention, *tensors, mask=mask)
    assert len(checked) == 1
    # The key has what the arguments are, not only whether they are equal.
    for options in ({"scale": 1}, {"scale": 1.0}, {"q_offset": 1}):
        if mask is None or not isinstance(mask, fx.BlockPlan) or "q_offset" not in options:
            fx.attention(*tensors, mask=mask, **options)
    with pytest.raises(fx.FlexdslError, match="attention takes"):
        fx.attention(*tensors, mask=mask, scale=True)
    with pytest.raises(fx.FlexdslError, match="attention takes"):
        fx.attention(*tensors, mask=mask, q_offset=False)


def test_arguments_that_do_not_fit_after_others_that_do():
    q, k, v = SHAPE.tensors(torch.float32)
    warm(fx.attention, q, k, v)
    wrong = [
        (q.double(), k, v),
        (q, k[:, :, :-1], v),
        (q.to_sparse(), k, v),
        (q.to("meta"), k, v),
        (q.numpy(), k, v),
        (q[0], k, v),
    ]
    for tensors in wrong:
        with pytest.raises(fx.FlexdslError):
            fx.attention(*tensors)
    with pytest.raises(fx.FlexdslError, match="there is no such one"):
        fx.attention(q, k, v, backend="gpu")


def test_globals_attributes_and_defaults_change():
    tensors = SHAPE.tensors()

    class Holder:
        width = 3

    holder = Holder()
    mask = fx.mask_mod(lambda b, h, q, kv: q - kv < WIDTH)
    score = fx.score_mod(lambda s, b, h, q, kv: s * holder.width)
    for width in (2, 2, 5, 2):
        globals()["WIDTH"] = holder.width = width
        out = fx.attention(*tensors, mask=mask, score=score)
        assert_near(out, oracle(*tensors, mask=mask, score=score)[0], 1e-6)


WIDTH = 2


def test_autocast_after_a_call_without(checked):
    tensors = SHAPE.tensors(torch.float32)
    mask = fx.stdlib.causal()
    warm(fx.attention, *tensors, mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fx.attention(*tensors, mask=mask).dtype is torch.bfloat16
    assert fx.attention(*tensors, mask=mask).dtype is torch.float32
    assert len(checked) == 2


def test_whoever_begins_to_watch_sees_a_call_that_was_met():
    q, k, v = SHAPE.tensors()
    mask = fx.stdlib.causal()
    warm(fx.attention, q, k, v, mask=mask)
    with Seen() as seen:
        fx.attention(q, k, v, mask=mask)
    assert "flexdsl::attention" in seen.names
    with pytest.raises(RuntimeError, match="Batching rule not implemented"):
        torch.func.vmap(lambda x: fx.attention(x, k, v, mask=mask))(torch.stack([q, q]))
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x: fx.attention(x, k, v, mask=mask))(
        q
    )
    targets = [str(n.target) for n in traced.graph.nodes]
    assert "flexdsl.attention.default" in targets


def test_a_subclass_after_a_tensor():
    class Mine(torch.Tensor):
        pass

    q, k, v = SHAPE.tensors()
    warm(fx.attention, q, k, v)
    out = fx.attention(q.as_subclass(Mine), k, v)
    assert torch.equal(out.as_subclass(torch.Tensor), fx.attention(q, k, v))


def test_a_numpy_array_changes_in_place(checked):
    tensors = SHAPE.tensors()
    slopes = torch.linspace(0.5, 0.1, 4).numpy()
    score = fx.score_mod(lambda s, b, h, q, kv: s + slopes[h] * (kv - q))
    for change in (0.0, 0.0, 1.0):
        slopes[0] += change
        out = fx.attention(*tensors, score=score)
        assert_near(out, oracle(*tensors, score=score)[0], 1e-6)
    assert len(checked) == 2


def test_a_captured_tensor_changes_its_shape_in_place():
    tensors = SHAPE.tensors()
    table = torch.rand(20, 4)
    score = fx.score_mod(lambda s, b, h, q, kv: s + table[q, h])
    warm(fx.attention, *tensors, score=score)
    table.data = torch.rand(4, 20).t()  # the same shape, other strides
    assert_near(fx.attention(*tensors, score=score), oracle(*tensors, score=score)[0], 1e-6)
    table.data = table.data[:10]
    with pytest.raises(fx.errors.IndexRangeError):
        fx.attention(*tensors, score=score)


def captured_once(other):
    """Tensors that a mask and a score captured; each was used beside a mod that lives on."""
    tensors = SHAPE.tensors()
    ids, bias = torch.arange(20) // 7, torch.rand(20)
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    score = fx.score_mod(lambda s, b, h, q, kv: s + bias[kv])
    warm(fx.attention, *tensors, mask=mask, score=SOFTCAP)
    warm(fx.attention, *tensors, mask=other, score=score)
    for mod in (mask, score):
        assert sum(isinstance(x, remembered.Direct) for x in mod.program.memo.values()) == 1
    return weakref.ref(ids), weakref.ref(bias)


SOFTCAP = fx.stdlib.softcap(5.0)


@pytest.mark.parametrize("other", [None, "q >= kv"])
def test_what_is_remembered_goes_with_its_mod(other):
    gone = captured_once(other)
    bind.forget()
    gc.collect()
    assert [x() for x in gone] == [None, None]


def test_only_so_many_calls_are_remembered(monkeypatch):
    monkeypatch.setattr(remembered, "_MOST_CALLS", 3)
    mask = fx.stdlib.causal()
    q, k, v = SHAPE.tensors()
    for offset in range(8):
        fx.attention(q, k, v, mask=mask, q_offset=offset)
    kept = [x for x in mask.program.memo.values() if isinstance(x, remembered.Direct)]
    assert len(kept) <= 3


def test_a_source_is_the_same_while_nothing_changes():
    mask = fx.stdlib.causal() & fx.stdlib.document(torch.arange(20) // 7)
    assert bind.source_of(mask, Kind.MASK) is bind.source_of(mask, Kind.MASK)
    assert bind.source_of("q >= kv", Kind.MASK) is bind.source_of("q >= kv", Kind.MASK)
