"""The operator as torch sees it: opcheck, texts and values, autocast, in-place changes, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.errors import CaptureError
from flexdsl.ir import captures_of
from flexdsl.runtime import executors, operator, operator_programs
from flexdsl.runtime.operator_programs import numbers_of, program_of, text_of, with_values
from support.calls import MASKS, SCORES, Shape, assert_near, oracle

SHAPE = Shape(batch=2, heads=4, kv_heads=2, q_len=9, kv_len=11, dim=4, v_dim=3)


def leaves(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [x.requires_grad_() for x in SHAPE.tensors(dtype)]


def arguments(mask=None, score=None, dtype=torch.float32, tile=(4, 4)):
    """What `attention` gives the operator for these functions."""
    programs = [
        None if f is None else mod(f).program
        for mod, f in ((fx.mask_mod, mask), (fx.score_mod, score))
    ]
    captures = [p.values[c.name] for p in programs if p is not None for c in captures_of(p.expr)]
    texts = [text_of(p) for p in programs]
    return (*leaves(dtype), captures, numbers_of(programs), *texts, 0.5, 1, list(tile), "cpu")


BIAS = torch.linspace(-1, 1, 129, requires_grad=True)
CASES = [
    ("none", "none"),
    ("causal", "softcap"),
    ("window of each head", "none"),
    ("documents", "alibi"),
    ("empty rows", "bias"),
]


@pytest.mark.parametrize(("mask", "score"), CASES)
def test_opcheck(mask, score):
    torch.library.opcheck(operator.attention, arguments(MASKS[mask], SCORES[score]))


def test_opcheck_of_a_learned_capture_and_the_backward():
    call = arguments(MASKS["documents"], lambda s, b, h, q, kv: s + BIAS[q - kv + 64])
    torch.library.opcheck(operator.attention, call)
    with torch.no_grad():
        out, lse = operator.attention(*call)
    tensors, rest = [x.detach() for x in call[:3]], [[x.detach() for x in call[3]], *call[4:]]
    backward = (*tensors, out, lse, torch.randn_like(out), None, *rest, [1])
    torch.library.opcheck(operator.attention_backward, backward)


@pytest.mark.parametrize("kind", ["mask", "score"])
def test_texts_and_values_give_the_program_again(kind, monkeypatch):
    """Also where this process has never seen the function, as after an export."""
    monkeypatch.setattr(operator_programs, "_KNOWN", operator_programs._KNOWN.copy())
    make, table = (fx.mask_mod, MASKS) if kind == "mask" else (fx.score_mod, SCORES)
    for function in table.values():
        if function is None:
            continue
        program = make(function).program
        text, numbers = text_of(program), numbers_of((program,))
        operator_programs._KNOWN.clear()
        captures = [program.values[c.name] for c in captures_of(program.expr)]
        again, nothing = with_values(program_of(text), None, captures, numbers)
        assert nothing is None and again.expr is program.expr
        assert dict(again.values) == dict(program.values)


def test_numbers_keep_every_bit():
    width, factor = -(2**40) - 1, 1e-3 / 3

    def score(score, b, h, q, kv):
        return score * factor + width * q

    program = fx.score_mod(score).program
    again, _ = with_values(program_of(text_of(program)), None, [], numbers_of((program,)))
    assert again.values == {"factor": factor, "width": width}


def test_one_text_for_all_values():
    texts = {fx.stdlib.sliding_window(n).text for n in (3, 4)}
    assert len(texts) == 2
    assert len({text_of(fx.stdlib.sliding_window(n).program) for n in (3, 4)}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_autocast_casts_as_torch_does(dtype):
    q, k, v = SHAPE.tensors(dtype)
    expected = fx.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), score=SCORES["bias"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fx.attention(q, k.bfloat16(), v, score=SCORES["bias"])
        assert torch.nn.functional.scaled_dot_product_attention(q, q, q).dtype is found.dtype
    assert found.dtype is torch.bfloat16
    # Equal bits: inside, scores stay in single precision.
    assert torch.equal(found, expected)


def test_gradients_under_autocast_have_the_dtype_of_the_leaves():
    tensors = leaves(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fx.attention(*tensors, mask=MASKS["causal"])
    gradients = torch.autograd.grad(out.float().square().sum(), tensors)
    assert all(g.dtype is torch.float32 and g.abs().max() > 0 for g in gradients)


def test_autocast_leaves_double_precision_alone():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fx.attention(*SHAPE.tensors()).dtype is torch.float64


def test_an_in_place_change_of_a_captured_tensor_is_seen():
    bias, seen = torch.zeros(64), torch.ones(64, dtype=torch.bool)
    tensors = SHAPE.tensors()
    call = {
        "mask": lambda b, h, q, kv: seen[kv],
        "score": lambda score, b, h, q, kv: score + bias[q - kv + 20],
    }
    for change in (lambda: bias.uniform_(-1, 1), lambda: seen.__setitem__(2, False)):
        change()
        assert_near(fx.attention(*tensors, **call), oracle(*tensors, **call)[0], 1e-6)


def test_a_numpy_array_is_uploaded_once(monkeypatch):
    slopes = np.linspace(0.5, 0.1, 4)
    seen = []
    original = executors.EXECUTORS["cpu"]

    def forward(bound, *rest):
        seen.append(bound.score_values["slopes"])
        return original.forward(bound, *rest)

    executor = executors.EXECUTORS["cpu"].__class__(forward, original.backward)
    monkeypatch.setitem(executors.EXECUTORS, "cpu", executor)
    tensors = SHAPE.tensors()
    for change in (0.0, 0.0, 1.0):
        slopes[0] += change
        fx.attention(*tensors, score=lambda score, b, h, q, kv: score - slopes[h] * q)
    assert seen[0] is seen[1] and seen[2] is not seen[1]


def test_a_learned_tensor_in_a_mask_alone_is_refused():
    gate = torch.rand(16, requires_grad=True)
    tensors = SHAPE.tensors()

    def mask(b, h, q, kv):
        return gate[kv] > 0.5

    with pytest.raises(CaptureError, match="gate requires a gradient, but only the mask"):
        fx.attention(*tensors, mask=mask)
    with torch.no_grad():
        fx.attention(*tensors, mask=mask)
    # In both, its gradient is that of the score.
    out = fx.attention(*tensors, mask=mask, score=lambda s, b, h, q, kv: s + gate[kv])
    assert torch.autograd.grad(out.sum(), gate)[0].shape == gate.shape


def test_a_plan_of_the_user_is_used_by_the_operator(monkeypatch):
    made = []
    from flexdsl.runtime import bind

    original = bind.make_plan
    monkeypatch.setattr(bind, "make_plan", lambda *a, **k: made.append(a) or original(*a, **k))
    odd = torch.arange(16) % 5 != 3
    plan = fx.plan(lambda b, h, q, kv: odd[kv], 9, 11, tile=(5, 3))
    tensors = leaves()
    out = fx.attention(*tensors, mask=plan)
    out.sum().backward()
    assert made == []
    assert_near(out, oracle(*SHAPE.tensors(), mask=lambda b, h, q, kv: odd[kv].item())[0])


def test_gradcheck_of_every_input_and_of_lse():
    table = torch.linspace(-1, 1, 80, dtype=torch.float64).reshape(4, 20).requires_grad_()

    def call(q, k, v, table):
        def score(score, b, h, q, kv):
            return fx.tanh(score) * table[h, kv] + table[h, q - kv + 10]

        out, lse = fx.attention(
            q, k, v, mask=MASKS["empty rows"], score=score, return_lse=True, q_offset=1
        )
        return out, lse.masked_fill(lse == -math.inf, 0.0)

    assert torch.autograd.gradcheck(call, (*leaves(), table), fast_mode=True)
