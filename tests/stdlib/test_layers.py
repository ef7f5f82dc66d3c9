"""Layers: passed to attention as they are, learned, moved, copied, and compiled."""

from __future__ import annotations

import copy

import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from tests.support.calls import assert_near

HEADS, LENGTH = 4, 36


def inputs(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, HEADS, LENGTH, 8)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3)]


def biases() -> dict[str, tuple[torch.nn.Module, str]]:
    """Layers by name, each with the name of its parameter."""
    torch.manual_seed(1)
    t5 = stdlib.T5RelativeBias(HEADS, num_buckets=8, max_distance=16)
    torch.nn.init.normal_(t5.table)
    return {
        "alibi": (stdlib.ALiBi(HEADS, learned=True), "slopes"),
        "t5": (t5, "table"),
        "swin": (stdlib.SwinRelativeBias(HEADS, (4, 9)), "table"),
    }


SAME = {
    "alibi": lambda layer: stdlib.alibi(slopes=layer.slopes),
    "t5": lambda layer: stdlib.t5_bias(layer.table, max_distance=16),
    "swin": lambda layer: stdlib.swin_bias(layer.table, (4, 9)),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_bias_is_learned(name, backend):
    layer, parameter = biases()[name]
    dtype = torch.float64 if backend == "cpu" else torch.float32
    q, k, v = inputs(dtype)
    weights = torch.linspace(-1, 1, q.numel(), dtype=dtype).reshape(q.shape)

    def gradient(score, backend, *tensors):
        layer.zero_grad()
        out = fx.attention(*tensors, score=score, backend=backend)
        (out * weights.to(out)).sum().backward()
        return out.detach(), dict(layer.named_parameters())[parameter].grad.clone()

    found = gradient(layer, backend, q, k, v)
    expected = gradient(SAME[name](layer), "reference", *(x.double() for x in (q, k, v)))
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b, 2e-6 if backend == "cpu" else 2e-4)
    assert found[1].abs().sum() > 0


@pytest.mark.parametrize("name", SAME)
def test_a_copy_has_a_table_of_its_own(name):
    layer, parameter = biases()[name]
    q, k, v = inputs(torch.float32)
    before = fx.attention(q, k, v, score=layer)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        getattr(twin, parameter).mul_(3.0)
    assert torch.equal(fx.attention(q, k, v, score=layer), before)
    changed = fx.attention(q, k, v, score=twin)
    assert not torch.allclose(changed, before)
    layer.load_state_dict(twin.state_dict())
    assert torch.equal(fx.attention(q, k, v, score=layer), changed)


def test_t5_bias_has_the_state_of_a_checkpoint():
    layer = stdlib.T5RelativeBias(HEADS)
    assert {n: tuple(t.shape) for n, t in layer.state_dict().items()} == {"table": (32, HEADS)}
    assert stdlib.SwinRelativeBias(3, 7).table.shape == (169, 3)
    assert list(stdlib.ALiBi(HEADS).state_dict()) == ["slopes"]
    assert not list(stdlib.ALiBi(HEADS).parameters())


def test_documents_combine_with_other_masks_and_change_from_batch_to_batch():
    layer = stdlib.DocumentMask(torch.zeros(36, dtype=torch.int32))
    packed = stdlib.DocumentMask.from_offsets(torch.tensor([0, 10, 36]))
    q, k, v = inputs()
    causal = stdlib.causal()
    for mask in (layer & causal, causal & layer, layer.mod() & causal, packed & causal):
        for offsets in ([0, 10, 36], [0, 30, 36]):
            layer.ids = torch.as_tensor(stdlib.document_ids(offsets=offsets))
            packed.pack(torch.tensor(offsets))
            expected = fx.attention(q, k, v, mask=stdlib.document_causal(layer.ids))
            assert_near(fx.attention(q, k, v, mask=mask), expected)
    layer.ids = torch.arange(72).reshape(2, 36) // 20
    expected = fx.attention(q, k, v, mask=stdlib.document(layer.ids.numpy()))
    assert_near(fx.attention(q, k, v, mask=layer), expected)
    assert_near(fx.attention(q, k, v, mask=layer | ~layer), fx.attention(q, k, v))


def test_packed_documents_move_and_are_no_part_of_a_checkpoint():
    layer = stdlib.PackedDocuments([0, 10, 30], length=36)
    assert not layer.state_dict() and not list(layer.parameters())
    assert layer.half().first.dtype == torch.int32
    assert {b.device.type for b in layer.to("meta").buffers()} == {"meta"}
    assert fx.plan(stdlib.PackedDocuments([0, 10, 36]).mod(), 36, 36).kind == "closed-form"


def test_a_compiled_function_takes_a_layer_s_mod():
    layer, _ = biases()["t5"]
    score = layer.mod()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def block(q, k, v):
        return fx.attention(q, k, v, score=score)

    q, k, v = inputs(torch.float32)
    assert_near(block(q, k, v), fx.attention(q, k, v, score=layer), 1e-6)
    with torch.no_grad():
        layer.table.mul_(-1.0)
    assert_near(block(q, k, v), fx.attention(q, k, v, score=layer), 1e-6)
    block(q, k, v).square().sum().backward()
    assert layer.table.grad.abs().sum() > 0


def test_sink_logits_are_one_more_key_without_a_value():
    layer = stdlib.SinkLogits(HEADS).double()
    torch.nn.init.normal_(layer.sinks)
    q, k, v = (x.requires_grad_() for x in inputs())
    weights = torch.linspace(-1, 1, q.numel(), dtype=torch.float64).reshape(q.shape)
    mask = stdlib.flash_window(LENGTH, LENGTH - 4, 5, 0)  # the first rows see nothing
    keys, values = k[:, :, 4:], v[:, :, 4:]
    found = layer(*fx.attention(q, keys, values, mask=mask, return_lse=True))
    seen = fx.plan(mask, LENGTH, LENGTH - 4).to_dense(tokens=True)[0, 0]
    scores = q @ keys.transpose(2, 3) / 8**0.5
    scores = scores.masked_fill(~torch.from_numpy(seen), -torch.inf)
    sinks = layer.sinks[None, :, None, None].expand(2, -1, LENGTH, 1)
    expected = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1] @ values
    assert_near(found, expected, 1e-9)
    learned = (q, k, v, layer.sinks)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), learned),
        torch.autograd.grad((expected * weights).sum(), learned),
        strict=True,
    ):
        assert_near(a, b, 1e-9)
    with pytest.raises(fx.errors.ArgumentError, match="3 sinks"):
        stdlib.SinkLogits(3)(found, torch.zeros(2, HEADS, LENGTH))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stdlib.ALiBi(0), "heads is 0"),
        (lambda: stdlib.SinkLogits(0), "num_heads is 0"),
        (lambda: stdlib.T5RelativeBias(4, num_buckets=30), "buckets is 30"),
        (lambda: stdlib.T5RelativeBias(0), "num_heads is 0"),
        (lambda: stdlib.SwinRelativeBias(4, 0), r"window is 0|window\[0\] is 0"),
        (lambda: stdlib.DocumentMask([0.5]), "ids is float64"),
        (lambda: stdlib.DocumentMask.from_offsets([0, 5, 3]), "must ascend from 0"),
        (lambda: stdlib.PackedDocuments([0, 5]).pack([0, 6]), "end at 6, but length is 5"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(fx.errors.ArgumentError, match=message):
        call()
