"""Digests are the same in every process and different for different expressions."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from flexdsl.ir import Capture, DType, Op, Type, apply, const, digest, load, param, var
from support.expressions import expressions

BUILD = """
from flexdsl.ir import *
doc = Capture("doc", DType.I32, 1)
same = apply(Op.EQ, load(doc, var("q")), load(doc, var("kv")))
near = apply(Op.LT, apply(Op.SUB, var("q"), var("kv")), param("window", Type.INDEX))
expr = apply(Op.AND, same, near)
"""


def test_another_process_finds_the_same_digest():
    names: dict[str, object] = {}
    exec(BUILD, names)
    expected = digest(names["expr"])  # type: ignore[arg-type]
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", BUILD + "print(digest(expr))"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == expected


@given(st.lists(expressions(Type.FLOAT), max_size=8))
def test_digests_are_equal_exactly_for_equal_nodes(exprs):
    assert len({digest(e) for e in exprs}) == len(set(exprs))


def test_what_a_kernel_shows_is_in_the_digest():
    q = var("q")
    different = [
        apply(Op.ADD, q, const(1)),
        apply(Op.ADD, q, param("n", Type.INDEX)),
        apply(Op.ADD, q, param("m", Type.INDEX)),
        load(Capture("t", DType.I32, 1), q),
        load(Capture("t", DType.I64, 1), q),
        load(Capture("u", DType.I32, 1), q),
        const(0.0),
        const(-0.0),
        const(0),
        const(False),
    ]
    assert len({digest(e) for e in different}) == len(different)
