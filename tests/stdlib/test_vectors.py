"""Every vector that independent code computed from the papers' definitions, on this library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import flexdsl as fx
from tests.stdlib import vectors

Vector = dict[str, Any]
VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())


def named(group: str) -> list[Any]:
    """The vectors of a group that the library covers, with a readable id each."""
    return [
        pytest.param(v, id=f"{v['name']}-{n}")
        for n, v in enumerate(VECTORS[group])
        if v["name"] not in vectors.NOT_COVERED
    ]


def test_every_vector_is_mapped_or_left_out_for_a_reason():
    mapped = {
        "masks": vectors.MASKS,
        "biases": vectors.BIASES,
        "points": vectors.POINTS,
        "row_ops": {"sink_softmax"},
    }
    found = {group: {v["name"] for v in VECTORS[group]} for group in mapped}
    for group, names in found.items():
        assert names - set(vectors.NOT_COVERED) == set(mapped[group]), group
    assert set(vectors.NOT_COVERED) <= set().union(*found.values())
    assert sum(map(len, (VECTORS[g] for g in mapped))) == 115


@pytest.mark.parametrize("vector", named("masks"))
def test_masks(vector: Vector):
    mask = vectors.mod_for_vector(vector["name"], vector["params"])
    head = vector["params"].get("h", 0)
    assert vector["rows"]
    for row, expected in vector["rows"].items():
        assert [kv for kv in range(vector["n_kv"]) if mask(0, head, int(row), kv)] == expected
    # The traced expression, which kernels and plans are made of, agrees with the function.
    again = fx.parse(mask.text).program
    assert again.expr is mask.expr
    plan = fx.plan(mask, vector["n_q"], vector["n_kv"], heads=head + 1, tile=(8, 8))
    dense = plan.to_dense(tokens=True)[0, head]
    for row, expected in vector["rows"].items():
        assert dense[int(row)].nonzero()[0].tolist() == expected


@pytest.mark.parametrize("vector", named("biases"))
def test_biases(vector: Vector):
    bias = vectors.bias_for_vector(vector["name"], vector["params"])
    assert vector["entries"]
    for h, q, kv, expected in vector["entries"]:
        assert bias(h, q, kv) == pytest.approx(expected, rel=2e-6, abs=1e-9), (h, q, kv)


@pytest.mark.parametrize("vector", named("points"))
def test_points(vector: Vector):
    assert vector["points"]
    for point, expected in vector["points"]:
        found = vectors.value_for_vector(vector["name"], vector["params"], point)
        assert found == pytest.approx(expected, rel=2e-7), point


@pytest.mark.parametrize("vector", named("row_ops"))
def test_rows(vector: Vector):
    weights, lse, factor = vectors.sink_softmax(vector["params"])
    assert weights == pytest.approx(vector["probs"], rel=1e-12)
    assert lse == pytest.approx(vector["lse_without_sink"], rel=1e-12)
    assert factor == pytest.approx(vector["out_scale"], rel=1e-12)
