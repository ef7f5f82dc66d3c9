"""Scores and tables beyond the vectors: properties that the definitions have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib


def test_alibi_slopes_of_twelve_heads_end_with_every_other_of_sixteen():
    expected = [0.7071067811865476, 0.3535533905932738, 0.1767766952966369, 0.08838834764831845]
    np.testing.assert_allclose(stdlib.alibi_slopes(12)[8:], expected, rtol=1e-7)
    assert stdlib.alibi_slopes(12).dtype == np.float32


def test_biases_are_added_to_the_score():
    table = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    for mod in (stdlib.alibi(2), stdlib.t5_bias(table), stdlib.sandwich(2, 8)):
        for h, q, kv in ((0, 3, 1), (1, 2, 6)):
            bias = mod(0.0, 0, h, q, kv)
            assert mod(3.0, 0, h, q, kv) == pytest.approx(3.0 + bias, rel=1e-6)


@given(st.booleans(), st.integers(-600, 600))
def test_t5_buckets_are_the_logarithms_rounded_down(bidirectional, distance):
    # The definition in floats, but for distances on the very border of two buckets.
    side = 16 if bidirectional else 32
    n = abs(distance) if bidirectional else max(-distance, 0)
    exact = side // 2
    bucket = n
    if n >= exact:
        steps = math.log(n / exact) / math.log(128 / exact) * (side - exact)
        if abs(steps - round(steps)) < 1e-9:
            steps = round(steps)
        bucket = min(side - 1, exact + math.floor(steps))
    if bidirectional and distance > 0:
        bucket += side
    table = np.arange(32, dtype=np.float32)[:, None]
    mod = stdlib.t5_bias(table, bidirectional=bidirectional)
    assert mod(0.0, 0, 0, 1000, 1000 + distance) == bucket


AXES = {"b": 2, "h": 3, "q": 5, "k": 6, "r": 7, "d": 4}


@pytest.mark.parametrize("axes", ["r", "d", "hr", "hqk", "bhqk", "bk", "hd", "qk", "q"])
def test_learned_bias_of_every_index(axes):
    table = np.random.default_rng(1).normal(size=[AXES[a] for a in axes]).astype(np.float32)
    mod = stdlib.learned_bias(table, axes)
    for b, h, q, kv in ((0, 0, 0, 0), (1, 2, 4, 5), (1, 1, 4, 0), (0, 2, 1, 5)):
        at = {"b": b, "h": h, "q": q, "k": kv, "d": min(abs(q - kv), 3)}
        at["r"] = min(max(q - kv, -3), 3) + 3
        assert mod(0.0, b, h, q, kv) == table[tuple(at[a] for a in axes)]


@given(st.integers(1, 6), st.integers(2, 12), st.integers(2, 12))
def test_approximate_reports_what_it_misses(rank, rows, columns):
    table = np.random.default_rng(rows * columns).normal(size=(2, rows, columns))
    rank = min(rank, rows, columns)
    found = stdlib.approximate(table, rank=rank)
    assert found.rank == rank
    product = found.q_factors @ np.swapaxes(found.k_factors, -1, -2)
    assert np.abs(product - table).max() == pytest.approx(found.error, abs=1e-5)
    missed = ((product - table) ** 2).sum((-1, -2)) / (table**2).sum((-1, -2))
    assert 1 - missed.max() == pytest.approx(found.energy, abs=1e-5)
    enough = stdlib.approximate(table, energy=found.energy)
    assert enough.rank <= rank and enough.energy >= found.energy - 1e-9


def test_lowrank_bias_of_the_factors_is_the_table():
    table = np.arange(6.0)[:, None] * np.arange(5.0) - np.ones((6, 5))
    found = stdlib.approximate(table, energy=1.0)
    assert found.rank == 2 and found.error < 1e-5
    mod = stdlib.lowrank_bias(found.q_factors, found.k_factors)
    assert [[mod(0.0, 0, 0, q, kv) for kv in range(5)] for q in range(6)] == [
        pytest.approx(row, abs=1e-5) for row in table.tolist()
    ]


def test_per_head_factors_and_points_have_a_head_and_a_batch():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3, 4, 2)), rng.normal(size=(2, 3, 5, 2))
    mod = stdlib.lowrank_bias(x, y)
    assert mod(0.0, 1, 2, 3, 4) == pytest.approx(float(x[1, 2, 3] @ y[1, 2, 4]))
    p, r = rng.normal(size=(2, 3, 4, 2, 3)), rng.normal(size=(2, 3, 5, 2, 3))
    weight = np.array([1.0, 2.0, 3.0])
    found = stdlib.ipa_points(p, r, weight)(0.0, 1, 2, 3, 4)
    assert found == pytest.approx(-1.5 * ((p[1, 2, 3] - r[1, 2, 4]) ** 2).sum())


def test_spatial_distance_of_other_keys_with_weights():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(6, 2))
    square = ((x[3] - y[5]) ** 2).sum()
    of_head, of_query = np.array([1.0, 2.0]), rng.normal(size=(2, 4))
    mod = stdlib.spatial_distance(x, y, weight=of_head)
    assert mod(1.0, 0, 1, 3, 5) == pytest.approx(1.0 - 2 * square)
    mod = stdlib.spatial_distance(x, y, weight=of_query)
    assert mod(0.0, 0, 1, 3, 5) == pytest.approx(-of_query[1, 3] * square)


def test_swin_log_coordinates_of_another_window_than_the_trained_one():
    small, large = stdlib.swin_log_coordinates(4, pretrained=8), stdlib.swin_log_coordinates(8)
    assert small.shape == (49, 2) and large.shape == (225, 2)
    np.testing.assert_allclose(small[::7, 0], large[4 * 15 : 11 * 15 : 15, 0])
    np.testing.assert_allclose(small[:7, 1], large[4:11, 1])


def test_moa_s_spans_are_cut_in_double_precision():
    sinks, local = stdlib.moa_spans([0.0, 0.0, -64.0], [0.7, 1.0, 0.5], 1000, block=1)
    assert (sinks + local).tolist() == [700, 1000, 436]


def test_the_swin_table_is_read_by_offset():
    table = np.arange(45, dtype=np.float32).reshape(15, 3)
    mod = stdlib.swin_bias(table, (2, 3))
    index = {(q, kv): mod(0.0, 0, 1, q, kv) for q in range(6) for kv in range(6)}
    for (q, kv), value in index.items():
        down, across = q // 3 - kv // 3 + 1, q % 3 - kv % 3 + 2
        assert value == table[down * 5 + across, 1]
    assert isinstance(mod, fx.Mod)
