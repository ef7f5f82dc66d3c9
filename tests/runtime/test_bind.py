"""What is remembered between calls, and that every change of it is seen."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.runtime import bind
from support.calls import MASKS, Shape, assert_near, oracle

LENGTHS = bind.Lengths(batch=2, heads=4, q_len=40, kv_len=40, q_offset=0)


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Forget everything, and count the plans that are made."""
    plans = []

    def make_plan(*args, **options):
        plans.append(original(*args, **options))
        return plans[-1]

    original = bind.make_plan
    monkeypatch.setattr(bind, "make_plan", make_plan)
    bind._PLANS.clear()
    yield plans
    bind._PLANS.clear()


def find(mask, lengths=LENGTHS, tile=(16, 16)):
    return bind.find_plan(fx.mask_mod(mask).program, lengths, tile)


def test_the_same_call_makes_one_plan(made):
    assert find(MASKS["documents"]) is find(MASKS["documents"])
    assert len(made) == 1


def test_functions_of_one_expression_share_a_plan(made):
    assert find(lambda b, h, q, kv: q >= kv) is find(lambda b, h, q, kv: not q < kv)


def test_lengths_tile_and_parameters_make_another_plan(made):
    def mask(width):
        return lambda b, h, q, kv: q - kv < width

    find(mask(3))
    find(mask(4))
    find(mask(3), tile=(8, 8))
    find(mask(3), lengths=bind.Lengths(2, 4, 40, 41, 0))
    find(mask(3), lengths=bind.Lengths(2, 4, 40, 40, 1))
    assert len(made) == 5
    find(mask(4))
    assert len(made) == 5


def test_batch_and_heads_matter_only_where_the_mask_depends_on_them(made):
    larger = bind.Lengths(3, 8, 40, 40, 0)
    assert find(MASKS["causal"]) is find(MASKS["causal"], lengths=larger)
    assert find(MASKS["batch and head"]) is not find(MASKS["batch and head"], lengths=larger)


@pytest.mark.parametrize("kind", ["tensor", "numpy", "inference"])
def test_a_change_in_place_is_seen(kind, made):
    with torch.inference_mode(kind == "inference"):
        seen = torch.ones(40, dtype=torch.bool)
    mask_of = seen.numpy() if kind == "numpy" else seen

    def mask(b, h, q, kv):
        return mask_of[kv]

    tensors = Shape(q_len=40, kv_len=40).tensors()
    with torch.inference_mode(kind == "inference"):
        for column in (3, 17, 17):
            mask_of[column] = False
            out = fx.attention(*tensors, mask=mask)
            assert_near(out, oracle(*tensors, mask=mask)[0])
    # The second False in column 17 changes no element, but a tensor counts it.
    assert len(made) == (3 if kind == "tensor" else 2)


def test_a_tensor_at_the_address_of_a_dead_one_is_another_one():
    for i in range(8):
        seen = torch.zeros(40, dtype=torch.bool)
        seen[i] = True
        plan = find(lambda b, h, q, kv, seen=seen: seen[kv])
        assert plan.to_dense(tokens=True)[0, 0, 0].argmax() == i
        del seen, plan
        gc.collect()


def test_only_the_latest_plans_are_kept(made, monkeypatch):
    memory = bind.Memory(2)
    program = fx.mask_mod(MASKS["causal"]).program
    calls = []

    def get(key):
        return memory.get(program, key, lambda: calls.append(key))

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert calls == ["a", "b", "c", "b"] and len(memory) == 2


def test_numpy_captures_reach_the_executor():
    slopes = np.linspace(0.5, 0.1, 2)
    slopes.flags.writeable = False
    tensors = Shape().tensors()

    def score(score, b, h, q, kv):
        return score + slopes[h] * (kv - q)

    assert_near(fx.attention(*tensors, score=score), oracle(*tensors, score=score)[0])
