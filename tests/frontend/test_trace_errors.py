"""What a mod cannot do: each mistake is one error that points at it and says what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from flexdsl.errors import (
    BranchError,
    CaptureError,
    FlexdslError,
    KindError,
    ResultError,
    TypeMismatchError,
    UnsupportedError,
)
from flexdsl.frontend import functions as fx
from flexdsl.ir import Kind
from flexdsl.mod import Mod, as_mod, from_function, mask_mod, score_mod

TABLE = torch.zeros(4, 4)
STRANGE = torch.zeros(4, dtype=torch.complex64)
LIST = [1, 2, 3]


def precedence(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return (q >= kv) & b % 2 == 0


def endless(b: Any, h: Any, q: Any, kv: Any) -> Any:
    while kv < q:
        kv = kv + 1
    return kv == q


def endless_calls(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return endless_calls(b, h, q - 1, kv)


def many(b: Any, h: Any, q: Any, kv: Any) -> Any:
    total = 0
    for bit in range(12):
        total = total + (1 if q % (bit + 2) == 0 else 2)
    return total > kv


def number(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q - kv


def nothing(b: Any, h: Any, q: Any, kv: Any) -> Any:
    if q > kv:
        return True
    return None


def mixed(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q if q > kv else q < 3


def from_list(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return LIST[q] > 1


def too_few_indices(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return TABLE[q] > 0


def too_many_indices(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return TABLE[q, kv, h] > 0


def sliced(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return TABLE[q, :] > 0


def computed(b: Any, h: Any, q: Any, kv: Any) -> Any:
    doubled = TABLE * 2
    return doubled[q, kv] > 0


def complex_capture(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return STRANGE[q] == 0


def unknown_function(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return torch.erfinv(q) > 0


def unknown_method(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q.cumsum(0) > 0


def in_a_dict(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return {0: True}[q]


def bool_times_number(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return (q > kv) * 3 > 1


def odd_power(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q**1.7 > 2


def division_by_zero(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q + 5 // (kv - kv) > 0


CASES: list[tuple[Callable[..., Any], type[FlexdslError], str, str]] = [
    (precedence, TypeMismatchError, "(q >= kv) & b % 2", "parentheses"),
    (endless, BranchError, "kv < q", "fx.where"),
    (endless_calls, BranchError, "", "a table that the function looks up"),
    (many, BranchError, "q % (bit + 2) == 0", "without branching"),
    (number, ResultError, "q - kv", "a comparison"),
    (nothing, ResultError, "", "every branch"),
    (mixed, ResultError, "q > kv", "one type"),
    (from_list, UnsupportedError, "LIST[q]", "captured_tensor[index]"),
    (too_few_indices, UnsupportedError, "TABLE[q] > 0", "an index for each dimension"),
    (too_many_indices, TypeMismatchError, "TABLE[q, kv, h]", "TABLE[i, j]"),
    (sliced, UnsupportedError, "TABLE[q, :]", "one integer expression for each dimension"),
    (computed, CaptureError, "doubled[q, kv]", "outside"),
    (complex_capture, CaptureError, "STRANGE[q]", "float32"),
    (unknown_function, UnsupportedError, "torch.erfinv(q)", "sigmoid"),
    (unknown_method, UnsupportedError, "q.cumsum", "clamp"),
    (in_a_dict, UnsupportedError, "{0: True}[q]", "captured tensor"),
    (bool_times_number, TypeMismatchError, "(q > kv) * 3", "where(condition, 1, 0)"),
    (odd_power, UnsupportedError, "q**1.7", "fx.exp"),
    (division_by_zero, TypeMismatchError, "5 // (kv - kv)", "another divisor"),
]


@pytest.mark.parametrize(("function", "error", "place", "fix"), CASES, ids=lambda c: str(c)[:20])
def test_error_points_at_the_mistake(
    function: Callable[..., Any], error: type[FlexdslError], place: str, fix: str
) -> None:
    with pytest.raises(error) as caught:
        _ = mask_mod(function).program
    message = str(caught.value)
    assert fix in message and message.startswith(error.code)
    span = caught.value.span
    if place:
        assert span is not None and __file__.endswith(span.file.rsplit("/", 1)[-1])
        line = span.source_line()
        assert line is not None and line[span.column : span.end_column] == place
        assert "^" * len(place) in message


def test_error_in_a_helper_shows_the_call_too() -> None:
    def helper(x: Any) -> Any:
        return x & (x > 2)

    def outer(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return helper(q + kv) == 0

    with pytest.raises(TypeMismatchError) as caught:
        _ = mask_mod(outer).program
    assert "called from" in str(caught.value) and "helper(q + kv)" in str(caught.value)


def test_a_score_that_returns_a_bool() -> None:
    with pytest.raises(ResultError, match="a score mod returns a float"):
        _ = score_mod(lambda s, b, h, q, kv: s > 0).program


@pytest.mark.parametrize(
    "function", [lambda q, kv: True, lambda s, b, h, q, kv: s], ids=["two", "five"]
)
def test_wrong_arguments_are_found_at_the_decorator(function: Callable[..., Any]) -> None:
    with pytest.raises(KindError, match=r"\(b, h, q, kv\)"):
        mask_mod(function)


def test_kinds_do_not_mix() -> None:
    mask = mask_mod(lambda b, h, q, kv: q > kv)
    score = score_mod(lambda s, b, h, q, kv: s)
    for wrong in (lambda: mask & score, lambda: score | mask, lambda: ~score):
        with pytest.raises(KindError):
            wrong()
    with pytest.raises(KindError, match="truth value"):
        bool(mask)
    with pytest.raises(KindError, match="not int"):
        as_mod(3, Kind.MASK)


def test_a_function_that_changes_its_mind() -> None:
    calls: list[int] = []

    def fickle(b: Any, h: Any, q: Any, kv: Any) -> Any:
        calls.append(1)
        return (q > len(calls)) and (kv > 1) and h == 0

    with pytest.raises(UnsupportedError, match="another way"):
        _ = mask_mod(fickle).program


def test_a_value_that_outlives_its_trace() -> None:
    kept: list[Any] = []

    def keeper(b: Any, h: Any, q: Any, kv: Any) -> Any:
        kept.append(q)
        return q > kv

    _ = mask_mod(keeper).program
    with pytest.raises(UnsupportedError, match="outlived"):
        _ = kept[0] + 1


def test_nothing_of_the_users_is_changed() -> None:
    class Holder:
        size = 3

        def __init__(self) -> None:
            self.width, self.slopes = 4, np.ones(2)

        def __call__(self, b: Any, h: Any, q: Any, kv: Any) -> Any:
            return q - kv < self.width * fx.abs(self.slopes[h])

    holder = Holder()
    mod: Mod = from_function(holder, Kind.MASK)
    assert "width" in mod.program.values
    assert holder.width == 4 and isinstance(holder.slopes, np.ndarray)
    assert mod(0, 0, 5, 3) is np.True_ or mod(0, 0, 5, 3) is True
