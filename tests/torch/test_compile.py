"""Under torch.compile: one graph, whatever the values of windows, offsets and documents."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch._dynamo.exc import InternalTorchDynamoError, TorchRuntimeError
from torch._dynamo.testing import CompileCounterWithBackend

import flexdsl as fx
from flexdsl.runtime.operator_compiled import run_aside
from support.calls import Shape, assert_near

WIDTH = 9
IDS = torch.arange(64) // 7
SLOPES = np.array([0.5, 0.25], dtype=np.float32)


@fx.mask_mod
def window(b, h, q, kv):
    return 0 <= q - kv < WIDTH


@fx.mask_mod
def documents(b, h, q, kv):
    return IDS[q] == IDS[kv] and q >= kv


@fx.score_mod
def slopes(score, b, h, q, kv):
    return score + SLOPES[h] * (kv - q)


BOTH = window & documents
PLAN = fx.plan(window, 33, 33)


def attend(q, k, v, mask=None, score=None, q_offset=0):
    return fx.attention(q, k, v, mask=mask, score=score, q_offset=q_offset, return_lse=True)


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function=attend, **options):
    """The function compiled without a graph break, and a counter of its graphs."""
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(function, backend=counter, fullgraph=True, **options), counter


def check(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b, 1e-6)


def tensors(length: int = 33) -> list[torch.Tensor]:
    return Shape(q_len=length, kv_len=length).tensors(torch.float32)


@contextmanager
def global_value(name: str, value: object) -> Iterator[None]:
    old = globals()[name]
    globals()[name] = value
    try:
        yield
    finally:
        globals()[name] = old


def causal(b, h, q, kv):
    return q >= kv


@pytest.mark.parametrize(
    "mask",
    [None, "q >= kv and q - kv < 5", causal, window, documents, BOTH],
    ids=["none", "text", "function", "number", "tensor", "both"],
)
def test_one_graph_without_a_break(mask):
    run, counter = compiled()
    check(run(*tensors(), mask, slopes), attend(*tensors(), mask, slopes))
    assert counter.frame_count == 1


def test_changes_are_never_missed_where_graphs_may_break():
    run = torch.compile(attend, backend="aot_eager")
    for width, ids in ((9, IDS), (3, IDS + 1), (1, IDS // 2)):
        with global_value("WIDTH", width), global_value("IDS", ids):
            check(run(*tensors(), BOTH, slopes), attend(*tensors(), BOTH, slopes))
    for n in (2, 3):
        mask = fx.stdlib.document_causal(torch.arange(33) // n)
        check(run(*tensors(), mask), attend(*tensors(), mask))


def test_a_lambda_that_captures_nothing_may_stand_inside():
    def call(q, k, v):
        return attend(q, k, v, lambda b, h, q, kv: q >= kv)

    run, _ = compiled(call)
    check(run(*tensors()), call(*tensors()))


def test_values_change_without_a_new_graph():
    run, counter = compiled()
    for width, ids, slope in ((9, IDS, 0.5), (3, IDS + 1, 0.1), (1, IDS // 2, -1.0), (0, IDS, 2.0)):
        SLOPES[0] = slope
        with global_value("WIDTH", width), global_value("IDS", ids):
            check(run(*tensors(), BOTH, slopes), attend(*tensors(), BOTH, slopes))
    IDS[5] = 77
    check(run(*tensors(), BOTH, slopes), attend(*tensors(), BOTH, slopes))
    IDS[5] = 0
    assert counter.frame_count == 1


def test_new_mods_of_one_kind_share_a_graph():
    run, counter = compiled()
    for n in (2, 3, 4):
        mask = fx.stdlib.document_causal(torch.arange(33) // n)
        check(run(*tensors(), mask), attend(*tensors(), mask))
    assert counter.frame_count == 1
    for n in (2, 3, 4):
        mask = fx.stdlib.sliding_window(n)
        check(run(*tensors(), mask), attend(*tensors(), mask))
    assert counter.frame_count == 2


def test_what_decides_the_structure_makes_a_new_graph():
    def factory(inverse, period):
        return fx.mask_mod(lambda b, h, q, kv: (q < kv if inverse else q >= kv) or kv % period == 0)

    run, counter = compiled()
    for inverse, period in ((False, 4), (True, 4), (True, 5), (False, 4)):
        mask = factory(inverse, period)
        check(run(*tensors(), mask), attend(*tensors(), mask))
    assert 2 <= counter.frame_count <= 3


def test_lengths_change_without_a_new_graph():
    run, counter = compiled()
    for length in (33, 40, 57):
        ids = torch.arange(length) // 7
        mask = fx.stdlib.document_causal(ids)
        inputs = tensors(length)
        for x in inputs:
            torch._dynamo.mark_dynamic(x, 2)
        torch._dynamo.mark_dynamic(ids, 0)
        check(run(*inputs, mask), attend(*inputs, mask))
    assert counter.frame_count == 1


def test_offsets_are_integers_of_the_graph():
    """torch makes an integer argument a variable of the graph; with dynamic=True from the first."""
    run, counter = compiled(dynamic=True)
    q, k, v = tensors()
    for offset in (3, 4, 30):
        check(
            run(q[:, :, :2], k, v, window, None, offset),
            attend(q[:, :, :2], k, v, window, None, offset),
        )
    assert counter.frame_count == 1


class Biased(torch.nn.Module):
    """A score with a learned table, and a mask with a buffer and a number of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.linspace(-1, 1, 130).reshape(2, 65))
        self.register_buffer("ids", torch.arange(64) // 5)
        self.width = 7
        self.score = fx.score_mod(lambda score, b, h, q, kv: score + self.bias[h, q - kv + 32])
        self.mask = fx.mask_mod(self.near)

    def near(self, b, h, q, kv):
        return self.ids[q] == self.ids[kv] and q - kv < self.width

    def forward(self, q, k, v):
        return fx.attention(q, k, v, mask=self.mask, score=self.score)


def gradients(call, module, inputs):
    return torch.autograd.grad(call(*inputs).square().sum(), [*inputs, module.bias])


def test_a_module_learns_in_one_graph():
    module = Biased()
    run, counter = compiled(module)
    for width in (7, 3):
        module.width = width
        inputs = [x.requires_grad_() for x in tensors()]
        check(gradients(run, module, inputs), gradients(module, module, inputs))
    module.ids = torch.arange(64) // 9
    check(gradients(run, module, inputs), gradients(module, module, inputs))
    assert counter.frame_count == 1


def test_a_buffer_that_the_graph_changes_is_seen_by_the_mask():
    module = Biased()

    def step(q, k, v):
        module.ids.add_(torch.arange(64) % 2)
        return module(q, k, v)

    run, _ = compiled(step)
    before = module.ids.clone()
    found = run(*tensors())
    module.ids.copy_(before)
    assert_near(found, step(*tensors()), 1e-6)


class Routed(torch.nn.Module):
    """Attention to the tiles of keys whose mean fits the mean of a tile of queries best."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("blocks", torch.ones(1, 2, 3, 3, dtype=torch.bool))
        self.mask = fx.mask_mod(self.chosen)

    def chosen(self, b, h, q, kv):
        return self.blocks[b, h, q // 16, kv // 16] and q >= kv

    def forward(self, q, k, v):
        means = (x.unflatten(2, (3, 16)).mean(3) for x in (q, k))
        scores = torch.einsum("bhid,bhjd->bhij", *means)
        best = scores.topk(2, -1).indices
        self.blocks = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
        return fx.attention(q, k, v, mask=self.mask)


def test_tiles_chosen_in_a_graph():
    """The mod reads them where the module keeps them; a plan of them is made outside of graphs."""
    module = Routed()
    run, counter = compiled(module)
    for seed in (0, 1):
        q, k, v = Shape(q_len=48, kv_len=48).tensors(torch.float32, seed)
        found, expected = run(q, k, v), module(q, k, v)
        assert_near(found, expected, 1e-6)
        plan = fx.BlockPlan.from_blocks(module.blocks, mask="q >= kv", tile=(16, 16))
        assert_near(expected, fx.attention(q, k, v, mask=plan), 1e-6)
    assert counter.frame_count == 1


def test_functional_call_in_a_graph():
    module = Biased()

    def call(bias, *inputs):
        return torch.func.functional_call(module, {"bias": bias}, inputs)

    run, _ = compiled(call)
    bias = torch.randn(2, 65)
    assert_near(run(bias, *tensors()), call(bias, *tensors()), 1e-6)
    assert not torch.allclose(call(bias, *tensors()), module(*tensors()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns of itself
def test_inductor():
    module = Biased()
    inputs = [x.requires_grad_() for x in tensors()]
    run = torch.compile(module, fullgraph=True)
    check(gradients(run, module, inputs), gradients(module, module, inputs))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, k, v: attend(q, k, v, fx.stdlib.causal()), "made inside a compiled function"),
        (lambda q, k, v: attend(q, k, v, window & documents), "made inside a compiled function"),
        (lambda q, k, v: attend(q, k, v, Biased.near), "does not take that"),
        (lambda q, k, v: attend(q, k, v, lambda b, h, q, kv: q - kv < WIDTH), "captures something"),
        (
            lambda q, k, v: attend(q, k, v, lambda b, h, i, kv: v[0, 0, i, 0] < 0),
            "captures something",
        ),
        (lambda q, k, v: fx.attention(q, k, v, backend="reference"), "does not run under"),
        (lambda q, k, v: attend(q, k, v, PLAN), "a plan is the mask in a compiled function"),
    ],
)
def test_what_cannot_be_compiled_says_what_to_write(call, message):
    run, _ = compiled(call)
    with pytest.raises((InternalTorchDynamoError, torch._dynamo.exc.Unsupported), match=message):
        run(*tensors())


def test_shapes_that_do_not_fit_are_named():
    run, _ = compiled()
    q, k, v = tensors()
    with pytest.raises(TorchRuntimeError, match="k and v differ in heads or length"):
        run(q, k, v[:, :, :4])


def test_a_change_that_the_compiler_cannot_see_is_an_error():
    table = {1: 5}
    mask = fx.mask_mod(lambda b, h, q, kv: q - kv < table[1])
    run, _ = compiled()
    check(run(*tensors(), mask), attend(*tensors(), mask))
    table[1] = 6
    with pytest.raises(fx.FlexdslError, match="a compiled function was made for the mod"):
        run(*tensors(), mask)


def test_what_is_run_aside_is_marked_as_torch_marks_it():
    def function():
        pass

    def other():
        pass

    assert vars(run_aside(function)) == vars(torch.compiler.assume_constant_result(other))


def test_a_call_that_compiles_nothing_does_not_import_the_compiler():
    """It would take longer than the call."""
    text = """
import sys, torch, flexdsl as fx
q, k, v = (torch.randn(1, 2, 20, 16, requires_grad=True) for _ in range(3))
fx.attention(q, k, v, mask="q >= kv").sum().backward()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
