"""Beside the rest of torch: export, checkpoints, functional calls, data parallel, CUDA graphs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import flexdsl as fx
from flexdsl.errors import BackendError
from flexdsl.runtime import executors, operator
from support.calls import MASKS, SCORES, Shape, assert_near

OPERATOR = operator.attention


class Biased(torch.nn.Module):
    """Attention whose score has a learned table, and whose mask a buffer and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.linspace(-1, 1, 258).reshape(2, 129))
        self.register_buffer("ids", torch.arange(64) // 5)
        self.width = 7

    def score(self, score, b, h, q, kv):
        return score + self.bias[h, q - kv + 64]

    def mask(self, b, h, q, kv):
        return self.ids[q] == self.ids[kv] and q - kv < self.width

    def forward(self, q, k, v):
        return fx.attention(q, k, v, mask=self.mask, score=self.score)


def tensors(length: int = 33) -> list[torch.Tensor]:
    return Shape(q_len=length, kv_len=length).tensors(torch.float32)


def leaves() -> list[torch.Tensor]:
    return [x.requires_grad_() for x in tensors()]


def counted(monkeypatch) -> list[int]:
    """One entry for each forward pass of the CPU executor from now on."""
    calls: list[int] = []
    executor = executors.EXECUTORS["cpu"]

    def forward(*args):
        calls.append(1)
        return executor.forward(*args)

    monkeypatch.setitem(executors.EXECUTORS, "cpu", type(executor)(forward, executor.backward))
    return calls


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_length(strict):
    module = Biased()
    module.mask, module.score = fx.mask_mod(module.mask), fx.score_mod(module.score)
    length = torch.export.Dim("length", min=2, max=64)
    shapes = {name: {2: length} for name in "qkv"}
    program = torch.export.export(module, tuple(tensors()), dynamic_shapes=shapes, strict=strict)
    assert [n.target for n in program.graph.nodes].count(OPERATOR) == 1
    for size in (33, 50):
        assert_near(program.module()(*tensors(size)), module(*tensors(size)), 1e-6)


LOADED = """
import io, sys, torch
import flexdsl.runtime.attention
program = torch.export.load(io.BytesIO(sys.stdin.buffer.read()))
q, k, v = (torch.linspace(-1, 1, 2 * 33 * 16).reshape(1, 2, 33, 16) * s for s in (1, 2, 3))
print(program.module()(q, k, v).sum().item())
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_exported_program_runs_in_another_process():
    """Where nobody has the functions: the graph has their texts."""
    module = Biased()
    inputs = [torch.linspace(-1, 1, 2 * 33 * 16).reshape(1, 2, 33, 16) * s for s in (1, 2, 3)]
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, tuple(inputs)), file)
    command = [sys.executable, "-W", "ignore", "-c", LOADED]
    found = subprocess.run(command, input=file.getvalue(), capture_output=True, check=False)
    assert found.returncode == 0, found.stderr.decode()
    assert float(found.stdout) == pytest.approx(module(*inputs).sum().item(), abs=1e-3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant, monkeypatch):
    module, inputs = Biased(), leaves()
    expected = torch.autograd.grad(module(*inputs).square().sum(), [*inputs, module.bias])
    calls = counted(monkeypatch)
    out = checkpoint(module, *inputs, use_reentrant=reentrant)
    out.square().sum().backward()
    found = [*(x.grad for x in inputs), module.bias.grad]
    assert len(calls) == 2
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("policy", "runs"), [("MUST_SAVE", 1), ("PREFER_RECOMPUTE", 2)])
def test_selective_checkpoint(policy, runs, monkeypatch):
    module, inputs = Biased(), leaves()
    calls = counted(monkeypatch)

    def choose(ctx, op, *args, **kwargs):
        chosen = policy if op is OPERATOR else "PREFER_RECOMPUTE"
        return CheckpointPolicy[chosen]

    contexts = partial(create_selective_checkpoint_contexts, choose)
    out = checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts)
    found = torch.autograd.grad(out.square().sum(), [*inputs, module.bias])
    assert len(calls) == runs
    expected = torch.autograd.grad(module(*inputs).square().sum(), [*inputs, module.bias])
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_functional_call_sees_the_other_parameter():
    module, inputs = Biased(), tensors()
    bias = torch.randn(2, 129, requires_grad=True)
    out = torch.func.functional_call(module, {"bias": bias}, tuple(inputs))
    (gradient,) = torch.autograd.grad(out.square().sum(), bias)
    other = Biased()
    other.load_state_dict({"bias": bias.detach(), "ids": other.ids})
    assert torch.equal(out, other(*inputs))
    (expected,) = torch.autograd.grad(other(*inputs).square().sum(), other.bias)
    assert torch.equal(gradient, expected)


def test_a_second_derivative_is_refused():
    inputs = leaves()
    out = fx.attention(*inputs, score=SCORES["softcap"])
    (dq,) = torch.autograd.grad(out.sum(), inputs[0], create_graph=True)
    with pytest.raises(BackendError, match="no second derivative"):
        dq.sum().backward()


WORKER = """
import os, sys, torch
sys.path.insert(0, {tests!r})
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import importlib.util
spec = importlib.util.spec_from_file_location("citizen", {file!r})
citizen = importlib.util.module_from_spec(spec)
spec.loader.exec_module(citizen)
torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + {store!r}, rank=rank, world_size=2)
model = DistributedDataParallel(citizen.Biased())
model(*(x + rank for x in citizen.tensors())).square().sum().backward()
torch.save(model.module.bias.grad, {store!r} + f".{{rank}}")
dist.barrier()
del model  # it holds the group, whose threads end with it
dist.destroy_process_group()
os._exit(0)
"""


def test_data_parallel_on_gloo(tmp_path):
    """Two processes with other inputs: each has the mean of both gradients of the table.

    They end without taking Python down: a thread of gloo that lets go of a tensor while Python ends
    is ended in the middle of it, which ends the process by `terminate` (once in 150 runs).
    """
    here = Path(__file__)
    store = tmp_path / "store"
    code = WORKER.format(tests=str(here.parent.parent), file=str(here), store=str(store))
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", code, str(r)], env=env, stderr=subprocess.PIPE)
        for r in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    expected = torch.zeros(2, 129)
    for rank in range(2):
        module = Biased()
        module(*(x + rank for x in tensors())).square().sum().backward()
        expected += module.bias.grad / 2
    for rank in range(2):
        assert_near(torch.load(tmp_path / f"store.{rank}"), expected, 1e-5)


@pytest.mark.filterwarnings("ignore:The AccumulateGrad node")  # of the warm-up on a side stream
@pytest.mark.gpu
@pytest.mark.parametrize("mask", ["causal", "window", "window of each head"])
def test_a_cuda_graph_captures_and_replays(mask):
    """A closed-form plan needs nothing from the host: forward and backward are captured."""
    inputs = [x.cuda().half().requires_grad_() for x in Shape(q_len=200, kv_len=200).tensors()]
    call = partial(fx.attention, mask=MASKS[mask], score=SCORES["softcap"])

    def step():
        out = call(*inputs)
        return out, *torch.autograd.grad(out.square().sum(), inputs)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for x in inputs:
            x.copy_(torch.randn_like(x))
    graph.replay()
    for a, b in zip(captured, step(), strict=True):
        assert_near(a, b, 1e-3)
