"""`flexdsl check`: each lint finds what it is for, at its place, and nothing in the library."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import flexdsl as fx
from flexdsl.cli.main import main
from flexdsl.lints import lint

ROOT = Path(__file__).parent.parent.parent
HEAD = """
import numpy as np
import torch
import flexdsl as fx

window, w = 8, 8
ids = np.arange(40) // 7
flags = torch.zeros(30, dtype=torch.bool)
slopes = torch.ones(2, 4)

def near(q, kv):
    return q >= kv & kv < 5

"""
MASK, SCORE = "def mod(b, h, q, kv):\n", "def mod(score, b, h, q, kv):\n"
# Body -> the lint, what it says, and the characters that the carets stand under.
FOUND = {
    "return q >= kv and q - kv <= window": ("wide-window", "window + 1 keys", "q - kv <= window"),
    "return q > kv": ("empty-rows", "at 0 (1 of 512 queries)", "q > kv"),
    "return q >= h * kv and kv > h": ("empty-rows", "at 0 of head 1 (12 of 512", None),
    "return q >= 0 or kv > 5": ("always-true", "allows every pair", None),
    "return flags[q] or not flags[q]": ("always-true", "allows every pair", None),
    "return q > kv and kv > q": ("always-false", "allows no pair", None),
    "return flags[kv] and q >= kv": ("always-false", "allows no pair", None),
    "return q >= kv & kv < 5": ("misread", "`kv & kv`", "q >= kv & kv < 5"),
    "return near(q, kv)": ("misread", "`kv & kv`", "q >= kv & kv < 5"),
    "return q % 2 == kv < 9": ("misread", "a chain of comparisons", "q % 2 == kv < 9"),
    "return ids[q] == ids[kv]": ("copied-array", "ids is a numpy array of 320 bytes", "ids[q]"),
    "return score + 0.5 * q - kv": ("cancels", "0.5 * q is the same for every key", "0.5 * q"),
    "return score + slopes[b, h]": ("cancels", "slopes[b, h] is the same", "slopes[b, h]"),
}
FINE = [
    "return q >= kv",
    "return q >= kv and q - kv < window",
    "return q >= kv and q - kv <= w",
    "return abs(q - kv) <= window",
    "return (q - kv) & (q - kv - 1) == 0 or q == kv",
    "return q >= (kv & 7) and -1 < q - kv < 5",
    "return (q % 2 == kv % 2) == (q >= kv) or q == kv",
    "return flags[q] == flags[kv] and (q >= kv)",
    "return score + slopes[b, h] * (kv - q)",
    "return 2.0 * score",
]


def check(path: Path, text: str) -> Result:
    path.write_text(text)
    return CliRunner().invoke(main, ["check", str(path)])


def definition(body: str) -> str:
    return HEAD + (SCORE if "score" in body else MASK) + f"    {body}\n"


@pytest.mark.parametrize("body", FOUND)
def test_each_lint_finds_what_it_is_for(body, tmp_path):
    name, what, place = FOUND[body]
    result = check(tmp_path / "mods.py", definition(body))
    assert result.exit_code == 1, result.output
    line = next(x for x in result.output.splitlines() if x.startswith(f"  {name}: "))
    assert what in line
    assert "1 mods" in result.output and "write instead" in result.output
    if place is not None:
        shown = result.output.splitlines()
        carets = next(n for n, x in enumerate(shown) if set(x) == set(" |^"))
        start, end = shown[carets].index("^"), shown[carets].rindex("^") + 1
        assert shown[carets - 1][start:end] == place


@pytest.mark.parametrize("body", FINE)
def test_nothing_is_found_where_nothing_is(body, tmp_path):
    result = check(tmp_path / "mods.py", definition(body))
    assert result.exit_code == 0, result.output


def test_a_number_in_the_name_of_a_mod_is_held_to_what_it_keeps(tmp_path):
    text = "import flexdsl as fx\nfx_1024 = 0\n@fx.mask_mod\ndef sliding_16(b, h, q, kv):\n"
    wide = check(tmp_path / "mods.py", f"{text}    return q >= kv and q - kv <= 16\n")
    assert "a query sees 17 keys" in wide.output
    right = check(tmp_path / "mods.py", f"{text}    return q >= kv and q - kv < 16\n")
    assert right.exit_code == 0


def test_errors_do_not_hide_the_mods_after_them(tmp_path):
    text = HEAD + "wrong = fx.mask_mod(lambda b, h, q, kv: q - kv)\n"
    text += "fine = fx.stdlib.causal()\nalias = fine\nbits = fx.parse('q >= kv & 7 < 5')\n"
    result = check(tmp_path / "mods.py", text)
    assert result.exit_code == 2
    assert "error    wrong\n  FX104: " in result.output
    assert "ok       fine: mask causal() = q >= kv" in result.output
    assert "alias" not in result.output and "`kv & 7`" in result.output
    assert "3 mods in" in result.output and "1 errors, 1 findings" in result.output
    assert check(tmp_path / "none.py", "").exit_code == 0
    missing = CliRunner().invoke(main, ["check", str(tmp_path / "missing.py")])
    assert missing.exit_code == 2 and "FX201: there is no file" in missing.output


def test_the_library_has_empty_rows_and_arrays_at_most():
    drawn = runpy.run_path(str(ROOT / "examples" / "gallery.py"))["MASKS"]
    mods = [v[0] if isinstance(v, tuple) else v for v in drawn.values()]
    mods += [fx.stdlib.alibi(8), fx.stdlib.softcap(30.0), fx.stdlib.alibi_bidirectional(8)]
    found = {finding.name for mod in mods for finding in lint(mod.program)}
    assert found == {"empty-rows", "copied-array"}


def test_a_mod_of_text_without_its_tensors_is_looked_at_as_far_as_it_goes():
    mod = fx.parse("mask packed(ids: i64[n]) = ids[q] == ids[kv] and q >= kv & 3 < 2")
    assert [f.name for f in lint(mod.program)] == ["misread"]
