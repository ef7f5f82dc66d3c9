"""Work on several threads: all of it once, errors raised, modes and settings kept."""

from __future__ import annotations

import threading

import pytest
import torch

import flexdsl as fx
from flexdsl.runtime.workers import for_each
from support.calls import MASKS, Shape, assert_near, oracle


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_every_item_once_each_thread_with_its_own_state():
    seen = []
    states = []

    def make_state():
        states.append(threading.get_ident())
        return states[-1]

    def work(state, item):
        assert state == threading.get_ident() and torch.get_num_threads() == 1
        assert not torch.is_grad_enabled()
        seen.append(item)

    for_each(range(1, 50), make_state, work)
    assert sorted(seen) == list(range(1, 50)) and len(states) == 3
    assert torch.get_num_threads() == 3
    fresh = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [3], "threads made later keep the setting"


def test_a_few_items_stay_on_the_calling_thread():
    here = []
    for_each([1, 2], lambda: None, lambda _, item: here.append(threading.get_ident()))
    assert here == [threading.get_ident()] * 2


def test_an_error_stops_the_work_and_is_raised():
    done = []

    def work(_, item):
        if item == 3:
            raise ValueError("three")
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        for_each(range(10000), lambda: None, work)
    assert len(done) < 9999 and torch.get_num_threads() == 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_attention_in_every_mode(mode, monkeypatch):
    monkeypatch.setattr("flexdsl.runtime.slabs.TILE", (8, 8))
    with mode():
        tensors = Shape(q_len=100, kv_len=100).tensors()
        out = fx.attention(*tensors, mask=MASKS["window"])
    assert out.is_inference() is (mode is torch.inference_mode)
    assert_near(out, oracle(*tensors, mask=MASKS["window"])[0])


def test_gradients_have_the_same_bits_each_time(monkeypatch):
    monkeypatch.setattr("flexdsl.runtime.slabs.TILE", (8, 8))
    shape = Shape(heads=12, kv_heads=6, q_len=64, kv_len=64)
    bias = torch.linspace(-1, 1, 127, requires_grad=True)
    inputs = [x.requires_grad_() for x in shape.tensors(torch.float32)] + [bias]

    def score(score, b, h, q, kv):
        return score + bias[q - kv + 63]

    def gradients():
        out = fx.attention(*inputs[:3], mask=MASKS["window of each head"], score=score)
        return torch.autograd.grad(out.square().sum(), inputs)

    first = gradients()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
