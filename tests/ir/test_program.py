"""A program prints as one declaration with the values and lengths that it has now."""

from __future__ import annotations

import numpy as np

from flexdsl.ir import Capture, DType, Kind, Op, Program, Type, apply, load, param, var


def test_text_shows_values_of_parameters_and_lengths_of_captures():
    doc, table = Capture("doc", DType.I32, 1), Capture("table", DType.F32, 2)
    q, kv = var("q"), var("kv")
    same = apply(Op.EQ, load(doc, q), load(doc, kv))
    near = apply(Op.LT, apply(Op.SUB, q, kv), param("window", Type.INDEX))
    hot = apply(Op.GT, load(table, q, kv), param("least", Type.FLOAT))
    expr = apply(Op.AND, apply(Op.AND, same, near), hot)
    values = {"window": 8, "least": 0.5, "doc": np.zeros(9, np.int32)}
    assert Program(Kind.MASK, "packed", expr, values).text == (
        "mask packed(window: int = 8, least: float = 0.5, doc: i32[9], table: f32[_, _])"
        " = doc[q] == doc[kv] and q - kv < window and table[q, kv] > least"
    )


def test_programs_that_one_kernel_serves_have_one_digest():
    expr = apply(Op.LT, apply(Op.SUB, var("q"), var("kv")), param("window", Type.INDEX))
    narrow = Program(Kind.MASK, "narrow", expr, {"window": 8})
    wide = Program(Kind.MASK, "wide", expr, {"window": 4096})
    assert narrow.digest == wide.digest
