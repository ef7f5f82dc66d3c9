"""`flexdsl verify`: exit code 0 and a report, 1 and the smallest case, 2 for a user's mistake."""

from __future__ import annotations

from click.testing import CliRunner, Result

from flexdsl.cli.main import main

FILE = """
import itertools
import flexdsl as fx

@fx.mask_mod
def sliding(b, h, q, kv):
    return q >= kv and q - kv < 5

def louder(score, b, h, q, kv):
    return 2.0 * score

pair = fx.variant("pair", mask=sliding, score=louder)

def raising(b, h, q, kv):
    return 12 % (kv - 4) == 0
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["verify", *arguments, "--examples", "20", "--backend", "cpu"])


def test_exit_codes(tmp_path):
    path = tmp_path / "mods.py"
    path.write_text(FILE)
    for name in ("sliding", "louder"):
        result = run(f"{path}:{name}")
        assert result.exit_code == 0, result.output
        assert f"{name}: verified in 2" in result.output
    both = run(f"{path}:pair", "--numerics")
    assert both.exit_code == 0, both.output
    assert "louder: verified in 2" in both.output and "  numerics  plain" in both.output
    under = run(f"{path}:louder", "--mask", "q >= kv", "--heads", "2", "--q-len", "3")
    assert under.exit_code == 0, under.output
    failed = run(f"{path}:raising")
    assert failed.exit_code == 1
    assert "FX401: raising: raising(0, 0, 0, 4) raises ZeroDivisionError" in failed.stderr
    assert "Case(kv_len=5)" in failed.stderr
    for mistake in (f"{path}:slidin", "q >= ", str(tmp_path / "none.py") + ":x"):
        assert run(mistake).exit_code == 2
