"""Errors beside SDPA's: every situation and dtype is reported, and a NaN that spreads is found."""

from __future__ import annotations

import pytest

import flexdsl as fx
from flexdsl.testing import numerics
from flexdsl.testing.backends import find_backends
from flexdsl.testing.function import Disagreement
from flexdsl.testing.limits import Limits
from flexdsl.testing.subject import read_subject
from support.verification import packed, treat_partial_as_full

SITUATIONS = {"plain", "large scores", "long rows", "huge biases", "-inf biases"}
EPSILON = {"float64": 2e-16, "float32": 1e-7, "float16": 1e-3, "bfloat16": 8e-3}
LIMITS = Limits(batch=1, heads=2, q_positions=64, kv_len=64)


def test_errors_stand_beside_those_of_sdpa():
    report = fx.verify(fx.stdlib.sliding_window(100), examples=2, numerics=True)
    assert {(r.situation, r.dtype) for r in report.numerics} == {
        (s, d) for s in SITUATIONS for d in EPSILON
    }
    for row in report.numerics:
        assert row.sdpa_out is not None
        # Large scores carry an error of their own size into the exponent, in every arithmetic.
        scale = 500 if row.situation == "large scores" else 8
        assert 0 < row.out <= max(1.5 * row.sdpa_out, scale * EPSILON[row.dtype])
    assert "numerics  plain         float32   out " in str(report)


def test_what_sdpa_cannot_compute_has_no_figure():
    subject, (cpu,) = read_subject(fx.stdlib.softcap(2.0)), find_backends("cpu")
    assert all(row.sdpa_out is None for row in numerics.measure(subject, cpu, LIMITS))
    shift = read_subject(fx.stdlib.alibi(2))
    assert all(row.sdpa_out is not None for row in numerics.measure(shift, cpu, LIMITS))


def test_captured_tensors_bound_the_lengths():
    rows = fx.verify(packed, examples=2, numerics=True).numerics
    assert {r.situation for r in rows} == SITUATIONS - {"long rows"}


def test_a_nan_that_spreads_is_found(monkeypatch):
    treat_partial_as_full(monkeypatch)
    with pytest.raises(Disagreement, match=r"a NaN in k\[:, :, 3\] makes NaN of out\[0, 0, 0\]"):
        numerics.measure(read_subject("q >= kv"), find_backends("cpu")[0], LIMITS)
