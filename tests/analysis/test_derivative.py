"""Derivatives against torch's autograd of the same expression."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl.analysis.derivative import STEPWISE, derivatives, flat_nodes
from flexdsl.errors import GradientWarning
from flexdsl.ir import OPS, Op, Type, evaluate, print_expr, var, verify, walk
from flexdsl.runtime.evaluate import evaluate as evaluate_torch

TABLE = torch.linspace(0.5, 2.0, 8)

SCORES: dict[str, Any] = {
    "identity": lambda s, b, h, q, kv: s,
    "times two": lambda s, b, h, q, kv: 2 * s,
    "squared": lambda s, b, h, q, kv: s * s,
    "softcap": lambda s, b, h, q, kv: 5 * fx.tanh(s / 5),
    "silu": lambda s, b, h, q, kv: s * fx.sigmoid(s),
    "trigonometric": lambda s, b, h, q, kv: fx.sin(s) + fx.cos(2 * s) * s,
    "exponentials": lambda s, b, h, q, kv: fx.exp(s / 3) - fx.exp2(s / 4),
    "roots": lambda s, b, h, q, kv: fx.sqrt(s * s + 1) * fx.rsqrt(fx.abs(s) + 2),
    "logarithms": lambda s, b, h, q, kv: fx.log(s * s + 1) / fx.log2(3 + fx.abs(s)),
    "extremes": lambda s, b, h, q, kv: fx.minimum(s, 0.5) + fx.maximum(s, -0.25) * 2,
    "branch": lambda s, b, h, q, kv: s * 3 if q > kv else -s,
    "on itself": lambda s, b, h, q, kv: s * 3 if s > 0.3 else s * s,
    "learned": lambda s, b, h, q, kv: s * TABLE[q] + TABLE[kv] / (TABLE[q] + s * s),
    "kink": lambda s, b, h, q, kv: fx.abs(s - s) + fx.maximum(s, s * 1.0),
}


@pytest.mark.parametrize("name", SCORES)
def test_against_autograd(name: str) -> None:
    program = fx.score_mod(SCORES[name]).program
    found = derivatives(program.expr)
    score = torch.linspace(-2, 2, 64, dtype=torch.float64).reshape(8, 8).requires_grad_()
    q, kv = torch.arange(8)[:, None], torch.arange(8)[None, :]
    zero = torch.zeros((), dtype=torch.int64)
    variables = {"score": score, "q": q, "kv": kv, "b": zero, "h": zero}
    values = {n: v.double() for n, v in program.values.items() if isinstance(v, torch.Tensor)}
    result = evaluate_torch(program.expr, variables, values)
    (wanted,) = torch.autograd.grad(result.sum(), score, allow_unused=True)
    plain = {n: v.detach().numpy() for n, v in variables.items()}
    arrays = {n: v.numpy() for n, v in values.items()}
    mine = evaluate(found[var("score")], plain, arrays)
    verify(found[var("score")])
    torch.testing.assert_close(torch.as_tensor(mine).expand(8, 8), wanted)


def test_of_loads() -> None:
    program = fx.score_mod(lambda s, b, h, q, kv: s * TABLE[q] + fx.exp(TABLE[kv])).program
    by_node = {print_expr(n): print_expr(d) for n, d in derivatives(program.expr).items()}
    assert by_node["TABLE[q]"] == "score" and by_node["TABLE[kv]"] == "exp(TABLE[kv])"


def test_steps_are_named() -> None:
    program = fx.score_mod(
        lambda s, b, h, q, kv: fx.floor(s) + (s if s > 0 else 2 * s) + (1.0 if q > kv else 0.0)
    ).program
    flat = {print_expr(n) for n in flat_nodes(program.expr, var("score"))}
    assert flat == {"floor(score)", "score > 0.0"}


def test_every_op_is_smooth_or_stepwise() -> None:
    smooth = frozenset(OPS) - STEPWISE
    assert {op for op in smooth if OPS[op].result is Type.BOOL} == set()
    assert {Op.FLOOR, Op.TO_INDEX, Op.TO_FLOAT, Op.LOAD, Op.VAR} <= STEPWISE
    assert all(n.op in OPS for n in walk(var("score")))


def test_a_step_of_the_score_is_told_once() -> None:
    def stepped(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return fx.floor(s * 8) / 8 + 0.5 * s

    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    with pytest.warns(GradientWarning, match="taken as 0") as caught:
        fx.attention(q, q, q, score=stepped).sum().backward()
        fx.attention(q, q, q, score=stepped).sum().backward()
    assert len(caught) == 1 and "^^^" in str(caught[0].message)
    assert q.grad is not None and bool(q.grad.isfinite().all())


def test_explanations() -> None:
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and q - kv < 7)
    assert "closed form" in mask.explain() and "q + 1" in mask.explain()
    ids = torch.zeros(9, dtype=torch.int32)
    assert "table of runs" in fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv]).explain()
    score = fx.score_mod(lambda s, b, h, q, kv: fx.floor(s) + TABLE[q] + TABLE[kv])
    assert "deterministic" in score.explain() and "a floor of the score" in score.explain()
