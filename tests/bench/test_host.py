"""The benchmark of the host: that it measures every way, and what it says; no time is asserted."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from flexdsl.bench import host, short


def test_every_way_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short, "CALLS", 1)
    monkeypatch.setattr(host, "ROUNDS", 1)
    result = CliRunner().invoke(host.main, ["--device", "cpu", "--tokens", "16", "--heads", "2"])
    assert result.exit_code == 0, result.output
    for name in ("sdpa causal", "flexdsl window", "flexdsl documents", "flexdsl alibi"):
        assert result.output.count(name) == 3
    for phase in ("forward", "with graph", "backward", "returns us"):
        assert phase in result.output


@pytest.mark.gpu
def test_a_bundle_is_measured_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "ROUNDS", 1)
    result = CliRunner().invoke(host.main, ["--tokens", "512"])
    assert result.exit_code == 0, result.output
    assert "fx.load window" in result.output
