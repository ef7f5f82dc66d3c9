"""Symbolic execution: every way of writing a mod gives what the function gives on numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from flexdsl.frontend import functions as fx
from flexdsl.ir import Kind, evaluate, params_of, print_expr, verify
from flexdsl.mod import Mod, mask_mod, parse, score_mod

WINDOW = 3
DOCUMENT = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
TABLE = torch.arange(2 * 15, dtype=torch.float32).reshape(2, 15)
HEAT = torch.tensor(0.5)
SIZE = 8


def helper(a: Any, b: Any) -> Any:
    return a - b < WINDOW


def _with_and(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q >= kv and helper(q, kv)


def _chained(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return 0 <= q - kv <= WINDOW


def _early_returns(b: Any, h: Any, q: Any, kv: Any) -> Any:
    if h == 1:
        return True
    if kv < 2:
        return q % 2 == 0
    return not q < kv


def _loop(b: Any, h: Any, q: Any, kv: Any) -> Any:
    for i in range(WINDOW):
        if kv == 2 * i:
            return q > i
    return False


def _conditional(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return (q if h == 0 else kv) > 4 or q == kv


def _membership(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q - kv in (0, 1, 4)


def _divided(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q // WINDOW == kv // WINDOW or (q - kv) % (WINDOW + 1) == 0


def _bits(b: Any, h: Any, q: Any, kv: Any) -> Any:
    d = q // 2 - kv // 2
    return d >= 0 and (d & (d - 1)) == 0 and (q ^ kv) < (1 << 3) and (q >> 1) | kv > 0


def _documents(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return DOCUMENT[q] == DOCUMENT[kv]


def _powers(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return (q - kv) ** 2 <= 2**h + 4 and divmod(q, 3)[1] != 1 and abs(q - kv) >= -1


def _nested(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return not (_with_and(b, h, q, kv) and not _documents(b, h, q, kv))


@dataclass
class Band:
    width: int
    shift: int = 0

    def __call__(self, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return abs(q - kv + self.shift) < self.width

    def method(self, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return q - kv < self.width


def _keyword(b: Any, h: Any, q: Any, kv: Any, *, width: int = 2) -> Any:
    return q - kv < width


MASKS: dict[str, Callable[..., Any]] = {
    **{f.__name__: f for f in (_with_and, _chained, _early_returns, _loop, _conditional)},
    **{f.__name__: f for f in (_membership, _divided, _bits, _documents, _powers, _nested)},
    "lambda": lambda b, h, q, kv: q - kv < WINDOW + h,
    "partial": functools.partial(_keyword, width=4),
    "keyword": _keyword,
    "object": Band(3, 1),
    "method": Band(2).method,
    "min_max": lambda b, h, q, kv: fx.minimum(q, kv) >= fx.maximum(q, kv) - 2,
    "constant": lambda b, h, q, kv: True,
    "float": lambda b, h, q, kv: fx.sqrt(fx.abs(q - kv) + 0.25) * 1.5 < 2.7,
}


def pairs() -> list[tuple[int, int, int, int]]:
    return [
        (b, h, q, kv) for b in (0, 1) for h in (0, 1) for q in range(SIZE) for kv in range(SIZE)
    ]


def expect(mod: Mod, function: Callable[..., Any]) -> None:
    program = mod.program
    verify(program.expr)
    values = {n: v.numpy() if isinstance(v, torch.Tensor) else v for n, v in program.values.items()}
    for pair in pairs():
        variables = dict(zip(("b", "h", "q", "kv"), pair, strict=True))
        assert bool(evaluate(program.expr, variables, values)) == bool(function(*pair)), pair
    assert parse(mod.text).expr is program.expr


@pytest.mark.parametrize("name", MASKS)
def test_mask_equals_the_function_on_numbers(name: str) -> None:
    expect(mask_mod(MASKS[name]), MASKS[name])


def test_and_or_become_logic_and_not_a_choice() -> None:
    text = print_expr(mask_mod(_with_and).expr)
    assert text == "q >= kv and q - kv < WINDOW"


def test_functions_written_for_flex_attention_run_unchanged() -> None:
    def natten(b: Any, h: Any, q: Any, kv: Any) -> Any:
        x, y, u, w = q // 4, q % 4, kv // 4, kv % 4
        cx, cy = x.clamp(1, 2), torch.clamp(y, min=1, max=2)
        return ((cx - u).abs() <= 1) & (torch.abs(cy - w) <= 1) & ~(kv == 5)

    def select(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return torch.where(q > kv, kv % 2 == 0, torch.logical_or(q == 3, DOCUMENT[kv] > 1))

    for function in (natten, select):
        mod = mask_mod(function)
        assert mod.program.tensor_style

        def on_tensors(*pair: int, f: Callable[..., Any] = function) -> bool:
            return bool(f(*(torch.tensor(p) for p in pair)))

        expect(mod, on_tensors)
        for pair in pairs():
            assert mod(*pair) == on_tensors(*pair)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda s, b, h, q, kv: s + TABLE[h, q - kv + 7], "score + TABLE[h, q - kv + 7]"),
        (lambda s, b, h, q, kv: s + TABLE[h][q - kv + 7], "score + TABLE[h, q - kv + 7]"),
        (lambda s, b, h, q, kv: s + TABLE[0][kv], "score + TABLE[0, kv]"),
        (lambda s, b, h, q, kv: s + TABLE[-1, kv], "score + TABLE[1, kv]"),
        (lambda s, b, h, q, kv: s + TABLE[0, 3], "score + TABLE[0, 3]"),
        (lambda s, b, h, q, kv: s + HEAT[()] * HEAT, "score + HEAT[] * HEAT[]"),
        (lambda s, b, h, q, kv: 2 * s if q > kv else s, "2.0 * score if q > kv else score"),
        (
            lambda s, b, h, q, kv: torch.where(q >= kv, s, -float("inf")),
            "score if q >= kv else -inf",
        ),
        (lambda s, b, h, q, kv: s * torch.sigmoid(s), "score * sigmoid(score)"),
        (lambda s, b, h, q, kv: s + (q - kv).float() / 2, "score + (q - kv) / 2.0"),
    ],
)
def test_scores(function: Callable[..., Any], text: str) -> None:
    assert print_expr(score_mod(function).expr) == text


def test_scalar_tensor_and_numpy_array_are_captures() -> None:
    temperature = torch.tensor(0.5)
    slopes = np.array([0.5, 0.25], np.float32)
    mod = score_mod(lambda s, b, h, q, kv: s * temperature + slopes[h] * (kv - q))
    assert mod.program.values == {"temperature": temperature, "slopes": slopes}
    assert mod.text == (
        "score mod(temperature: f32[], slopes: f32[2])"
        " = score * temperature[] + slopes[h] * (kv - q)"
    )


def test_captured_numbers_are_parameters_and_divisors_are_not() -> None:
    def banded(width: int, stride: int) -> Mod:
        return mask_mod(lambda b, h, q, kv: q - kv < width and q % stride == 0)

    first, second = banded(3, 4), banded(5, 4)
    assert first.expr is second.expr and first.digest == second.digest
    assert [p.attribute for p in params_of(first.expr)] == ["width"]
    assert first.program.values == {"width": 3} and second.program.values == {"width": 5}
    assert banded(3, 8).digest != first.digest


def test_a_changed_global_is_seen_without_a_new_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    mod = mask_mod(_with_and)
    before = mod.expr
    monkeypatch.setattr("tests.frontend.test_trace.WINDOW", 11, raising=False)
    monkeypatch.setitem(globals(), "WINDOW", 11)
    assert mod.program.values == {"WINDOW": 11} and mod.expr is before


def test_two_things_of_one_name_stay_apart() -> None:
    def window(size: int) -> Mod:
        return mask_mod(lambda b, h, q, kv: q - kv < size)

    small, large = window(2), window(5)
    both = small | (large & ~small)
    assert sorted(both.program.values.items()) == [("size", 2), ("size_2", 5)]
    for pair in pairs():
        assert both(*pair) == (pair[2] - pair[3] < 5)
    expect(both, lambda b, h, q, kv: q - kv < 5)


def test_mods_combine_and_are_called_inside_mods() -> None:
    causal = mask_mod(lambda b, h, q, kv: q >= kv)
    document = mask_mod(_documents)
    expect(causal & document, lambda b, h, q, kv: q >= kv and DOCUMENT[q] == DOCUMENT[kv])
    expect(~causal | document, lambda b, h, q, kv: q < kv or DOCUMENT[q] == DOCUMENT[kv])

    def inner(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return document(b, h, q, kv) and causal(b, h, q - 1, kv)

    expect(mask_mod(inner), lambda b, h, q, kv: DOCUMENT[q] == DOCUMENT[kv] and q - 1 >= kv)


def test_a_decorated_mod_is_the_function_on_numbers() -> None:
    mod = mask_mod(_early_returns)
    assert [mod(*p) for p in pairs()] == [_early_returns(*p) for p in pairs()]
    assert mod.kind is Kind.MASK and mod.name == "_early_returns"


def test_spans_point_at_the_expression() -> None:
    program = mask_mod(_with_and).program
    span = program.spans[program.expr.args[1]]
    line = span.source_line()
    assert line is not None and line[span.column : span.end_column] == "a - b < WINDOW"
