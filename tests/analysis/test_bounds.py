"""check_loads finds every index that leaves its tensor, and does not invent any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl.analysis import check_loads, make_plan
from flexdsl.errors import IndexRangeError, Span
from flexdsl.ir import Capture, DType, Expr, Op, Type, apply, const, load, param, var
from support.masks import Mask, Shape, Table, both, either, masks, maximum, minimum, shapes, where

DOC = Table("documents", np.arange(100) // 7)
TWO = Table("pairs", np.zeros((3, 100), np.int64))


def loads_to_clamp(mask: Mask, n: int, under: Mask | None = None, **sizes: int) -> int:
    """How many loads need clamping at n x n pairs."""
    program, other = mask.program(), None if under is None else under.program()
    values = {**program.values, **({} if other is None else other.values)}
    q_len, offset = sizes.get("q_len", n), sizes.get("q_offset", 0)
    found = check_loads(
        program.expr, None if other is None else other.expr, q_len, n, 2, 2, offset, values, {}
    )
    assert all(node.op is Op.LOAD for node in found)
    return len(found)


SAME = Mask(lambda b, h, q, kv: DOC[q] == DOC[kv], {}, (DOC,))


def test_in_range_everywhere() -> None:
    assert loads_to_clamp(SAME, 100) == 0
    assert loads_to_clamp(SAME, 100, q_len=60, q_offset=40) == 0
    assert loads_to_clamp(Mask(lambda b, h, q, kv: TWO[b + 1, kv] == 0, {}, (TWO,)), 100) == 0


def test_too_short_a_tensor() -> None:
    with pytest.raises(IndexRangeError) as caught:
        loads_to_clamp(SAME, 128)
    text = str(caught.value)
    assert "documents has 100 elements along dimension 0, but element 127 is read" in text
    assert "as long as the sequence" in text and "q = 127" in text


def test_an_offset_moves_the_index_out() -> None:
    with pytest.raises(IndexRangeError, match="element 100 is read"):
        loads_to_clamp(SAME, 100, q_len=61, q_offset=40)


@pytest.mark.parametrize(
    "function",
    [
        lambda b, h, q, kv: both(both(q < 100, kv < 100), DOC[q] == DOC[kv]),
        lambda b, h, q, kv: either(either(q >= 100, kv >= 100), DOC[q] == DOC[kv]),
        lambda b, h, q, kv: where(maximum(q, kv) < 100, DOC[q] == DOC[kv], True),
        lambda b, h, q, kv: both(both(q >= kv, q - kv < 100), DOC[q - kv] < DOC[minimum(q, 9)]),
    ],
)
def test_guarded_loads_are_clamped(function: Any) -> None:
    assert loads_to_clamp(Mask(function, {}, (DOC,)), 128) >= 1


@pytest.mark.parametrize(
    ("function", "witness"),
    [
        (lambda b, h, q, kv: both(kv <= 100, DOC[kv] == 3), "element 100 "),
        (lambda b, h, q, kv: both(DOC[kv] == 3, kv < 100), "documents"),
        (lambda b, h, q, kv: DOC[q - kv] == 3, "element 127 "),
        (lambda b, h, q, kv: both(abs(q - kv) <= 1, DOC[q - kv] == 3), "element -1 "),
        (lambda b, h, q, kv: where(q < 100, True, DOC[kv] == 0), "documents"),
        (lambda b, h, q, kv: TWO[b * 3, minimum(kv, 9)] == 0, "pairs has 3 elements"),
    ],
)
def test_guards_that_do_not_guard(function: Any, witness: str) -> None:
    with pytest.raises(IndexRangeError, match=witness):
        loads_to_clamp(Mask(function, {}, (DOC, TWO)), 128)


def test_a_score_counts_where_its_mask_allows() -> None:
    score = apply(Op.ADD, var("score"), load(Capture("bias", DType.F32, 1), _distance()))
    values = {"bias": np.zeros(64, np.float32), "w": 64}
    window = apply(Op.LT, _distance(), param("w", Type.INDEX))
    mask = apply(Op.AND, apply(Op.GE, var("q"), var("kv")), window)
    assert len(check_loads(score, mask, 512, 512, 1, 1, 0, values, {})) == 1
    with pytest.raises(IndexRangeError):
        check_loads(score, None, 512, 512, 1, 1, 0, values, {})
    with pytest.raises(IndexRangeError, match="64 elements along dimension 0, but element 64 is"):
        check_loads(score, mask, 512, 512, 1, 1, 0, {**values, "w": 65}, {})


def _distance() -> Expr:
    return apply(Op.SUB, var("q"), var("kv"))


def test_the_place_in_the_source_is_shown() -> None:
    node = load(Capture("bias", DType.F32, 1), var("kv"))
    spans = {node: Span("mods.py", 3, 4, 12, text="    bias[kv]")}
    with pytest.raises(IndexRangeError, match=r"mods\.py:3:5"):
        check_loads(node, None, 9, 9, 1, 1, 0, {"bias": np.zeros(8)}, spans)


def test_an_empty_tensor() -> None:
    node = load(Capture("bias", DType.F32, 1), const(0))
    with pytest.raises(IndexRangeError, match="bias has 0 elements"):
        check_loads(node, None, 9, 9, 1, 1, 0, {"bias": np.zeros(0)}, {})
    assert not check_loads(node, None, 0, 9, 1, 1, 0, {"bias": np.zeros(0)}, {})


def test_a_plan_checks_its_mask() -> None:
    with pytest.raises(IndexRangeError, match="documents has 100 elements"):
        make_plan(SAME.program(), 128, 128)


@given(st.integers(1, 60), st.integers(-9, 9), st.integers(1, 40), st.integers(1, 40), masks())
def test_against_brute_force(n: int, shift: int, q_len: int, kv_len: int, guard: Mask) -> None:
    """A guarded load raises exactly if some pair that counts reads outside."""
    array = Table("drawn", np.zeros(n, np.int64))
    mask = Mask(
        lambda b, h, q, kv: both(guard.function(b, h, q, kv), array[q - kv + shift] == 0),
        {},
        (array, *guard.tables),
    )
    allowed = guard.dense(1, 2, q_len, kv_len)[0]
    index = np.arange(q_len)[:, None] - np.arange(kv_len) + shift
    outside = (index < 0) | (index >= n)
    program = mask.program()
    if program.expr.op is Op.CONST:
        return
    arguments = (program.expr, None, q_len, kv_len, 1, 2, 0, program.values, {})
    if (allowed & outside).any():
        with pytest.raises(IndexRangeError):
            check_loads(*arguments)
    else:
        found = {n.attribute.name for n in check_loads(*arguments) if n.attribute}
        assert ("drawn" in found) == bool(outside.any())


@given(masks(), shapes())
def test_no_violation_is_invented(mask: Mask, shape: Shape) -> None:
    """Drawn masks cut every index to its array."""
    program = mask.program()
    sizes = (shape.q_len, shape.kv_len, 2, 3, shape.q_offset)
    assert check_loads(program.expr, None, *sizes, program.values, program.spans) == frozenset()
