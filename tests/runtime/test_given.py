"""Scores that are simpler under their mask: calls, gradients, errors and words stay the user's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.errors import HeadsWarning, IndexRangeError
from flexdsl.ir import Op, walk
from flexdsl.runtime import bind, slabs
from support.calls import Shape, assert_near, oracle
from tests.codegen.oracle import DEVICE, expect, expect_gradients

SHAPE = Shape(batch=2, heads=4, kv_heads=2, q_len=23, kv_len=37, dim=8, v_dim=8)
OFFSET = SHAPE.kv_len - SHAPE.q_len
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)
LONG = torch.linspace(-1, 1, 4 * 90).reshape(4, 90)
TABLE = torch.linspace(-1, 1, 4 * 37, dtype=torch.float64).reshape(4, 37)

MASKS: dict[str, Any] = {
    "causal": lambda b, h, q, kv: q >= kv,
    "window": lambda b, h, q, kv: 0 <= q - kv < 9 + h,
    "batches": lambda b, h, q, kv: kv % (b + 2) == 0 and q > kv,
}


def scores(slopes: torch.Tensor, table: torch.Tensor) -> dict[str, Any]:
    """In a simplified index the table is left at later keys, where the written one stays inside."""
    return {
        "distances": lambda s, b, h, q, kv: s - slopes[h] * fx.abs(q - kv),
        "bounded": lambda s, b, h, q, kv: s + slopes[h] * fx.minimum(kv - q, 0) / 3,
        "masking": lambda s, b, h, q, kv: s if kv <= q else -math.inf,
        "softcap": lambda s, b, h, q, kv: 3 * fx.tanh((s - slopes[h] * fx.abs(kv - q)) / 3),
        "branches": lambda s, b, h, q, kv: s + (slopes[h] if kv > q else table[h, q - kv]),
        "index": lambda s, b, h, q, kv: s + table[h, fx.where(kv <= q, q - kv, 30)],
        "decay": lambda s, b, h, q, kv: s * fx.where(q >= kv, fx.exp(slopes[h] * (kv - q)), 0.0),
    }


SCORES = scores(SLOPES, TABLE)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexdsl.runtime.slabs.TILE", (8, 8))
    monkeypatch.setattr(slabs, "LEAST_ROWS", 4)
    monkeypatch.setattr(slabs, "SLAB_SCORES", 100)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("offset", [0, OFFSET])
def test_calls(mask: str, score: str, offset: int) -> None:
    tensors = SHAPE.tensors()
    call: dict[str, Any] = {"mask": MASKS[mask], "score": SCORES[score], "q_offset": offset}
    out, lse = fx.attention(*tensors, return_lse=True, **call)
    expected, expected_lse = oracle(*tensors, **call)
    assert_near(out, expected, 1e-6)
    assert_near(lse, expected_lse, 1e-6)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("score", SCORES)
def test_gradients(score: str) -> None:
    """Those of q, k, v and of captured tensors, whose loads may be gone."""

    def gradients(backend: str) -> tuple[torch.Tensor, ...]:
        captured = [x.clone().requires_grad_() for x in (SLOPES, TABLE)]
        leaves = [*(x.requires_grad_() for x in SHAPE.tensors()), *captured]
        call: dict[str, Any] = {"mask": MASKS["window"], "score": scores(*captured)[score]}
        out = fx.attention(*leaves[:3], **call, q_offset=OFFSET, backend=backend)
        return torch.autograd.grad(out.square().sum(), leaves, materialize_grads=True)

    for mine, wanted in zip(gradients("cpu"), gradients("reference"), strict=True):
        assert_near(mine, wanted, 1e-6)


@pytest.mark.parametrize("score", ["distances", "branches", "index", "decay"])
def test_generated_kernels(score: str) -> None:
    given = fx.score_mod(scores(SLOPES.float().to(DEVICE), LONG.to(DEVICE))[score])
    expect(fx.stdlib.causal(), given)
    expect_gradients(fx.stdlib.causal(), given)


def bound_of(mask: Any, score: Any) -> bind.Bound:
    lengths = bind.Lengths(2, 4, 37, 37, 0)
    return bind.bind(fx.mask_mod(mask).program, fx.score_mod(score).program, lengths, (0, 0))


def test_what_executors_are_given() -> None:
    bound = bound_of(MASKS["causal"], SCORES["distances"])
    assert bound.score is not None and bound.written is not None
    assert "abs" not in repr(bound.score.expr) and "abs" in repr(bound.written.expr)
    assert bound.score_values is bound.written.values
    other = bound_of(lambda b, h, q, kv: q >= kv or kv < 3, SCORES["distances"])
    assert other.score is other.written


def test_a_new_load_is_held_inside_its_tensor() -> None:
    bound = bound_of(MASKS["causal"], SCORES["index"])
    assert bound.score is not None and bound.written is not None
    (new,), (old,) = (
        [n for n in walk(p.expr) if n.op is Op.LOAD] for p in (bound.score, bound.written)
    )
    assert new is not old and new in bound.clamped


def test_a_number_of_the_mask_is_not_that_of_the_score() -> None:
    """Both are called `window`, and the score's is the smaller one."""

    def mask_of(window: int) -> Any:
        return lambda b, h, q, kv: 0 <= q - kv < window

    def score_of(window: int) -> Any:
        return lambda s, b, h, q, kv: s + 0.1 * fx.minimum(q - kv, window)

    tensors = SHAPE.tensors()
    call: dict[str, Any] = {"mask": mask_of(12), "score": score_of(4)}
    assert_near(fx.attention(*tensors, **call), oracle(*tensors, **call)[0], 1e-6)


def test_errors_are_those_of_the_written_score() -> None:
    short = TABLE[:, :20]
    with pytest.raises(IndexRangeError, match=r"element 36 is read") as error:
        fx.attention(
            *SHAPE.tensors(),
            mask=MASKS["causal"],
            score=lambda s, b, h, q, kv: s + short[h, fx.where(kv <= q, q - kv, 30)],
            q_offset=OFFSET,
        )
    assert "if kv <= q else 30" in str(error.value)


def test_one_warning_of_heads() -> None:
    wide = torch.ones(9, 37, dtype=torch.float64)
    bind.forget()
    with pytest.warns(HeadsWarning) as seen:
        bound_of(MASKS["causal"], lambda s, b, h, q, kv: s + wide[h, fx.where(kv <= q, q - kv, 3)])
    assert len(seen) == 1


def test_words() -> None:
    tensors = SHAPE.tensors()
    text = fx.explain(*tensors, mask=MASKS["causal"], score=SCORES["distances"])
    line = "  abs(q - kv) is q - kv where the mask allows a pair"
    assert line in text.splitlines()
    both = fx.explain(*tensors, mask="abs(q - kv) < 4", score=SCORES["distances"])
    assert "where the mask allows a pair" not in both and "abs(q - kv)" in both
