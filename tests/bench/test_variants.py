"""The catalogue of variants: complete, made for its lengths, and measured, here on the CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.bench import catalogue, variants
from flexdsl.bench.catalogue import MASKS, SCORES, VARIANTS, Variant
from flexdsl.bench.cpu import Cpu
from flexdsl.ir import Kind
from flexdsl.runtime import bind

CPU = Cpu(torch.device("cpu"))
SMALL = {"q_len": 300, "heads": 2}
TINY = {
    "window": Variant("window", lambda d: stdlib.sliding_window(20), **SMALL),
    "heads": Variant("heads", lambda d: stdlib.elastic_window([1, 1], [1, 4], 64), **SMALL),
    "softcap": Variant("softcap", lambda d: stdlib.softcap(9.0), **SMALL),
    "broken": Variant("broken", lambda d: stdlib.sliding_window(0), **SMALL),
}


def test_every_mask_and_score_of_the_library_is_in_it():
    names = set(VARIANTS)
    assert len(names) == len(MASKS) + len(SCORES)
    ours = {"neighborhood_in_tiles", "neighborhood_96", "block_table_64", "lowrank_bias_16"}
    assert names - ours == {e.name for e in stdlib.catalog() if e.kind in ("mask", "score")}
    assert {v.make(CPU.device).kind.value for v in MASKS} == {"mask"}
    assert set(catalogue.QUICK) <= names


@pytest.mark.parametrize(
    "variant", [v for n, v in VARIANTS.items() if n != "graphormer_bias"], ids=lambda v: v.name
)
def test_captures_fit_the_lengths(variant):
    """Binding proves it; a quarter of a gigabyte of paths is left to a GPU."""
    mod = variant.make(CPU.device)
    lengths = bind.Lengths(variant.batch, variant.heads, variant.q_len, variant.keys, 0)
    mask, score = (mod, None) if variant in MASKS else (None, mod)
    sources = bind.source_of(mask, Kind.MASK), bind.source_of(score, Kind.SCORE)
    reading = bind.read(*sources, lengths, CPU.device)
    bound = bind.bind(reading.mask, reading.score, lengths, (128, 128))
    assert max(variant.q_len, variant.keys) >= 16384 or variant.name == "neighborhood_96"
    assert variant in SCORES or 0 < bound.plan.density <= 1


def test_a_mask_is_measured_beside_dense_attention():
    figure = variants.measure(TINY["window"], CPU, quick=True)
    assert figure.error is None and figure.kind == "mask" and figure.shape == "B1 H2 N300 D128"
    assert figure.ms > 0 and figure.beside_ms > 0 and figure.kernel == "cpu"
    tile = fx.plan(stdlib.sliding_window(20), 300, 300).tile_shape
    assert (figure.live, figure.tiles) == (5, 9) and tile == (128, 128)
    assert figure.bound == 9 / 5 and figure.plan == "closed-form" and figure.partial == 1.0
    assert figure.share == pytest.approx(figure.beside_ms / figure.ms / 1.8)
    assert figure.cost is None
    pairs = 2 * (20 * 300 - 190)
    assert figure.tflops == pytest.approx(4 * 128 * pairs / figure.ms / 1e9)


def test_heads_that_differ_are_all_counted():
    figure = variants.measure(TINY["heads"], CPU, quick=True)
    assert figure.tiles == 18 and figure.live == 5 + 6


def test_a_score_is_measured_beside_its_mask():
    figure = variants.measure(TINY["softcap"], CPU, quick=True)
    assert figure.kind == "score" and figure.bound is None and figure.share is None
    assert figure.cost == pytest.approx(figure.ms / figure.beside_ms - 1)


def test_an_error_is_a_figure_and_the_table_has_all(tmp_path: Path):
    figures = [variants.measure(v, CPU, quick=True) for v in TINY.values()]
    assert "keys_including_self is 0" in figures[3].error
    text = variants.table(figures)
    assert all(name in text for name in TINY) and "of 2 masks reach 85%" in text
    variants.write_json(tmp_path / "v.json", figures, {"name": "CPU"})
    rows = json.loads((tmp_path / "v.json").read_text())["rows"]
    assert [r["name"] for r in rows] == list(TINY) and rows[0]["bound"] == 9 / 5
    assert rows[2]["cost"] is not None and rows[2]["share"] is None


def test_keys_and_batches_of_a_variant():
    variant = replace(TINY["window"], kv_len=400, batch=2)
    q, k, v = variant.tensors(CPU.device, torch.float32)
    assert q.shape == (2, 2, 300, 128) and k.shape == v.shape == (2, 2, 400, 128)
    assert str(variant) == "B2 H2 N300:400 D128"


def test_the_command_needs_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(variants.main, ["--quick"])
    assert result.exit_code == 1 and "torch finds none here" in result.output
    result = CliRunner().invoke(variants.main, ["--only", "sliding_windows"])
    assert result.exit_code == 2 and "'sliding_windows' is not one of" in result.output


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path):
    path = tmp_path / "v.json"
    options = ["--quick", "--only", "sliding_window", "--only", "softcap", "--processes", "2"]
    result = CliRunner().invoke(variants.main, [*options, "--json", str(path)])
    assert result.exit_code == 0, result.output
    window, softcap = json.loads(path.read_text())["rows"]
    assert window["error"] is None and window["share"] > 0 and window["live"] < window["tiles"]
    assert softcap["error"] is None and softcap["cost"] is not None
