"""The intervals of a closed form, row by row: kernels mask pairs by them (`hopper/row_bits.py`)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import flexdsl as fx
from flexdsl.analysis.plan import make_plan
from flexdsl.analysis.values import bind
from support.masks import HEADS, Mask, Shape, shapes, solvable_masks


@pytest.mark.parametrize("inner", ["kv", "q"])
@given(mask=solvable_masks(), shape=shapes())
def test_the_intervals_of_a_row_are_its_allowed_positions(
    inner: str, mask: Mask, shape: Shape
) -> None:
    program = mask.program()
    sizes = {"tile": shape.tile, "heads": HEADS, "q_offset": shape.q_offset}
    plan = make_plan(program, shape.q_len, shape.kv_len, **sizes)
    form = (plan if inner == "kv" else plan.transposed()).closed_form
    if form is None or any(i.sieve is not None for i in form.intervals):
        return
    dense = mask.dense(1, HEADS, shape.q_len, shape.kv_len, shape.q_offset)[0]
    rows, positions = np.arange(shape.q_len) + shape.q_offset, np.arange(shape.kv_len)
    outer = "q"
    if inner == "q":
        outer, rows, positions, dense = "kv", positions, rows, dense.swapaxes(1, 2)
    values = bind(program.values, program.expr).all
    at = {"b": np.array(0), "h": np.arange(HEADS)[:, None, None], outer: rows[:, None]}
    found = np.zeros(dense.shape, bool)
    for interval in form.intervals:
        lower, upper = (fx.ir.evaluate(e, at, values) for e in (interval.lower, interval.upper))
        found |= (lower <= positions) & (positions < upper)
    np.testing.assert_array_equal(found, dense)
