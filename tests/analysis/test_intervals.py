"""Abstract values hold every concrete one: each op alone, and extremes of index ranges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdsl.analysis.domain import LIMIT, UNBOUNDED, Interval, Truth, index_interval
from flexdsl.analysis.interval import TRANSFER
from flexdsl.analysis.ranges import RangeTable
from flexdsl.ir import OPS, Op, Operands
from flexdsl.ir.ops import LEAVES
from flexdsl.ir.scalar import SCALAR

OF_INDICES = [
    op
    for op, row in OPS.items()
    if row.operands in (Operands.INDICES, Operands.NUMBERS, Operands.SAME) and op is not Op.LOAD
]
OF_FLOATS = [
    op
    for op, row in OPS.items()
    if row.operands in (Operands.FLOATS, Operands.NUMBERS, Operands.SAME)
]


def test_every_op_has_a_transfer_function() -> None:
    assert set(TRANSFER) | LEAVES | {Op.LOAD} == set(Op)


@st.composite
def index_ranges(draw: st.DrawFn, low: int = -12, high: int = 40) -> tuple[int, int]:
    first = draw(st.integers(low, high))
    return first, first + draw(st.integers(0, 9))


def check(op: Op, result: Interval | Truth, values: list[object]) -> None:
    """Every value is in the result, which a NaN must have been announced in."""
    if isinstance(result, Interval) and result.magnitude >= LIMIT:
        values = [v for v in values if abs(v) < LIMIT]
    for value in values:
        if isinstance(result, Truth):
            assert result.possible if value else not result.always, (op, result, value)
        elif math.isnan(value):
            assert result.nan
        else:
            assert result.lo <= value <= result.hi, (op, result, value)


def concrete(op: Op, operands: list[list[object]]) -> list[object]:
    found = []
    for args in itertools.product(*operands):
        try:
            found.append(SCALAR[op](*args))
        except (ArithmeticError, ValueError):
            continue
    return found


@pytest.mark.parametrize("op", OF_INDICES, ids=lambda op: op.value)
@given(data=st.data())
def test_index_operations_are_sound(op: Op, data: st.DataObject) -> None:
    ranges = [data.draw(index_ranges()) for _ in range(OPS[op].arity)]
    if op in (Op.SHL, Op.SHR):
        ranges[1] = data.draw(index_ranges(-2, 8))
    boxes = [index_interval(lo, hi, max(abs(lo), abs(hi))) for lo, hi in ranges]
    values = concrete(op, [list(range(lo, hi + 1)) for lo, hi in ranges])
    check(op, TRANSFER[op](*boxes), values)


@pytest.mark.parametrize("op", OF_FLOATS, ids=lambda op: op.value)
@given(data=st.data())
def test_float_operations_are_sound(op: Op, data: st.DataObject) -> None:
    numbers = st.floats(-30, 30) | st.sampled_from([0.0, 1e-30, 1e30, 3e38, -1e5, 1.0])
    boxes, inside = [], []
    for _ in range(OPS[op].arity):
        lo, hi = sorted((data.draw(numbers), data.draw(numbers)))
        middle = [lo + (hi - lo) * t for t in (0.25, 0.5, 0.9)]
        boxes.append(Interval(np.asarray(lo), np.asarray(hi)))
        inside.append([lo, hi, *(x for x in middle if lo <= x <= hi)])
    check(op, TRANSFER[op](*boxes), concrete(op, inside))


@given(index_ranges(), index_ranges(1, 9))
def test_remainders_and_quotients_by_one_divisor_are_exact(
    range_: tuple[int, int], divisors: tuple[int, int]
) -> None:
    (lo, hi), d = range_, divisors[0]
    a, b = index_interval(lo, hi, 60), index_interval(d, d, d)
    quotients = {x // d for x in range(lo, hi + 1)}
    found = TRANSFER[Op.FLOORDIV](a, b)
    assert (found.lo, found.hi) == (min(quotients), max(quotients))
    if len(quotients) == 1:
        found = TRANSFER[Op.MOD](a, b)
        assert (found.lo, found.hi) == (lo % d, hi % d)


@pytest.mark.parametrize("op", [Op.BITAND, Op.BITOR, Op.BITXOR], ids=lambda op: op.value)
@given(x=st.integers(-99, 99), y=st.integers(-99, 99))
def test_bits_of_points_are_exact(op: Op, x: int, y: int) -> None:
    found = TRANSFER[op](index_interval(x, x, abs(x)), index_interval(y, y, abs(y)))
    assert found.lo == found.hi == SCALAR[op](x, y)


@pytest.mark.parametrize("op", OF_INDICES, ids=lambda op: op.value)
def test_nothing_wraps_around(op: Op) -> None:
    huge = index_interval(2**60, 2**60, 2**60)
    for other in (huge, UNBOUNDED, index_interval(3, 3, 3)):
        operands = [huge, other][: OPS[op].arity]
        result = TRANSFER[op](*operands)
        if isinstance(result, Interval):
            assert result.lo <= result.hi
            exact = SCALAR[op](*[int(o.hi) for o in operands]) if op is not Op.SHL else 2**63
            if other is not UNBOUNDED and abs(exact) < LIMIT:
                assert result.lo <= exact <= result.hi


def test_an_unknown_float_decides_nothing() -> None:
    unknown = Interval(np.asarray(-np.inf), np.asarray(np.inf), 0, np.True_)
    infinity = Interval(np.asarray(np.inf), np.asarray(np.inf))
    for op in (Op.LT, Op.LE, Op.EQ, Op.GE):
        assert not TRANSFER[op](unknown, infinity).always
    assert TRANSFER[Op.NE](unknown, unknown).possible


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=150),
    st.booleans(),
    st.lists(st.tuples(st.integers(-3, 160), st.integers(0, 160)), min_size=1, max_size=8),
)
def test_extremes_of_ranges(
    values: list[int], ordered: bool, queries: list[tuple[int, int]]
) -> None:
    array = np.array(sorted(values) if ordered else values)
    low = np.array([q[0] for q in queries])
    high = low + [q[1] for q in queries]
    least, most = RangeTable(array).extremes([low], [high])
    for k, (a, b) in enumerate(zip(low, high, strict=True)):
        part = array[np.clip(a, 0, len(array) - 1) : np.clip(b, 0, len(array) - 1) + 1]
        assert least[k] <= part.min() and most[k] >= part.max()
        if ordered or len(part) == 1 or len(part) > 32:
            assert (least[k], most[k]) == (part.min(), part.max())


@given(st.data())
def test_extremes_of_boxes_in_two_dimensions(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    array = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-9, 9, (rows, columns))
    row = np.array(data.draw(st.tuples(*[st.integers(0, rows - 1)] * 2)))
    first = np.array(data.draw(st.tuples(*[st.integers(0, columns - 1)] * 2)))
    last = np.minimum(first + data.draw(st.integers(0, 40)), columns - 1)
    low, high = np.array([row.min(), row[1]]), np.array([row.max(), row[1]])
    least, most = RangeTable(array).extremes([low, first], [high, last])
    for k in range(2):
        part = array[low[k] : high[k] + 1, first[k] : last[k] + 1]
        assert least[k] <= part.min() and most[k] >= part.max()


def test_truth_is_a_lattice() -> None:
    never = Truth(np.array([False]), np.array([False]))
    always, maybe = never.negated(), Truth(np.array([False]), np.array([True]))
    assert always.always and not never.possible and maybe.maybe and not always.maybe
    assert never.either(always).always and not never.both(always).possible
    assert maybe.negated().maybe and maybe.both(always).maybe and maybe.either(never).maybe
