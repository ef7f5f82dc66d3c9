"""What is remembered between calls, and that every change of it is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.errors import IndexRangeError
from flexdsl.runtime import bind
from flexdsl.runtime.memory import Memory
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


def test_a_tensor_at_the_address_of_a_dead_one_is_another_one(monkeypatch):
    """Whether an allocator gives an address again is chance: here every tensor has the same."""
    monkeypatch.setattr("flexdsl.runtime.memory._contents", lambda capture: "one address")
    memory = Memory(4)

    def first(seen):
        program = fx.mask_mod(lambda b, h, q, kv: seen[kv]).program
        return memory.get((program,), "first", lambda: seen.tolist().index(True))

    a = torch.tensor([True, False])
    assert first(a) == first(a) == 0
    assert first(torch.tensor([False, True])) == 1


def test_only_the_latest_plans_are_kept(made, monkeypatch):
    memory = Memory(2)
    program = fx.mask_mod(MASKS["causal"]).program
    calls = []

    def get(key):
        return memory.get((program,), key, lambda: calls.append(key))

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


def test_an_index_that_leaves_its_tensor_is_an_error_with_a_pair():
    tensors = Shape(q_len=12, kv_len=12).tensors()
    seen, bias = torch.ones(11, dtype=torch.bool), torch.zeros(12)
    with pytest.raises(IndexRangeError, match="kv = 11"):
        fx.attention(*tensors, mask=lambda b, h, q, kv: seen[kv])
    with pytest.raises(IndexRangeError, match=r"element -\d+ is read"):
        fx.attention(*tensors, score=lambda score, b, h, q, kv: score + bias[q - kv])
    with pytest.raises(IndexRangeError, match="seen has 11 elements"):
        fx.attention(*tensors, mask=lambda b, h, q, kv: seen[q], q_offset=4)


def test_an_index_may_leave_its_tensor_at_an_excluded_pair():
    tensors = Shape(q_len=12, kv_len=12).tensors()
    bias = torch.linspace(-1, 1, 12)

    def score(score, b, h, q, kv):
        return score + bias[q - kv]

    out = fx.attention(*tensors, mask=MASKS["causal"], score=score)
    expected, _ = oracle(*tensors, mask=MASKS["causal"], score=guarded(bias))
    assert_near(out, expected, 1e-6)
    program = fx.score_mod(score).program
    lengths = bind.Lengths(1, 2, 12, 12, 0)
    clamped = bind.check_ranges(program, fx.mask_mod(MASKS["causal"]).program, lengths)
    assert [node.attribute.name for node in clamped] == ["bias"]


def guarded(bias):
    return lambda score, b, h, q, kv: score + (bias[q - kv] if q >= kv else 0.0)


def test_ranges_are_checked_again_only_after_a_change(monkeypatch):
    calls = []

    def check_loads(*args):
        calls.append(args)
        return original(*args)

    original = bind.check_loads
    monkeypatch.setattr(bind, "check_loads", check_loads)
    bind._CHECKS.clear()
    order = torch.arange(33)
    value = torch.zeros(33, dtype=torch.bool)
    tensors = Shape().tensors()

    def mask(b, h, q, kv):
        return value[order[kv]]

    fx.attention(*tensors, mask=mask)
    fx.attention(*tensors, mask=mask)
    assert len(calls) == 1
    order[5] = 33
    with pytest.raises(IndexRangeError, match="element 33 is read"):
        fx.attention(*tensors, mask=mask)


def test_mask_and_score_may_use_one_name_for_two_things():
    tensors = Shape().tensors()

    def one(scale):
        return lambda b, h, q, kv: q - kv < scale

    def other(scale):
        return lambda score, b, h, q, kv: score * scale

    out = fx.attention(*tensors, mask=one(9), score=other(0.5))
    assert_near(out, oracle(*tensors, mask=one(9), score=other(0.5))[0])


def test_mask_and_score_may_capture_two_tensors_of_one_name():
    tensors = Shape().tensors()

    def masked(table):
        return lambda b, h, q, kv: table[kv] > 0

    def scored(table):
        return lambda score, b, h, q, kv: score + table[q + kv]

    call = {
        "mask": masked(torch.arange(33) % 3),
        "score": scored(torch.linspace(0, 1, 65, dtype=torch.float64)),
    }
    assert_near(fx.attention(*tensors, **call), oracle(*tensors, **call)[0])
