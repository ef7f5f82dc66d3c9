"""The command: each subcommand on a file and on text, and mistakes as messages with exit code 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import flexdsl as fx
from flexdsl.cli.main import main

WINDOW = "q >= kv and q - kv < 100"

FILE = """
import flexdsl as fx

@fx.mask_mod
def sliding(b, h, q, kv):
    return q >= kv and q - kv < 100

def plain(b, h, q, kv):
    return q >= kv

def louder(score, b, h, q, kv):
    return 2.0 * score

text = "mask named() = q == kv"
number = 3

@fx.mask_mod
def wrong(b, h, q, kv):
    return (q >= kv) & b % 2 == 0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mods.py"
    path.write_text(FILE)
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def output(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def output_of_process(*arguments: str) -> str:
    """What the command prints in a process of its own, which compiles rather than interprets."""
    code = "from flexdsl.cli.main import main; main()"
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_help_names_every_command():
    for name in ("demo", "plan", "show"):
        assert name in output("--help")
        assert "Usage" in output(name, "--help")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sliding", "mask sliding() = q >= kv and q - kv < 100"),
        ("plain", "mask plain() = q >= kv"),
        ("louder", "score louder() = 2.0 * score"),
        ("text", "mask named() = q == kv"),
    ],
)
def test_show_text_of_a_file(file, name, text):
    assert output("show", f"{file}:{name}").strip() == text


def test_show_ir():
    lines = output("show", "--stage", "ir", WINDOW).splitlines()
    assert lines[0] == "%0: index = var q"
    assert lines[-1] == "%6: bool = and %2 %5"


def test_show_stdlib():
    lines = output("show", "stdlib").splitlines()
    at = lines.index("mask   sliding_window(keys_including_self)")
    assert lines[at + 1].strip() == "q - keys_including_self < kv <= q"
    assert "https://arxiv.org/abs/1904.10509" in lines[at + 2]
    names = {entry.name for entry in fx.stdlib.catalog()}
    assert {re.match(r"\w+ +(\w+)", line)[1] for line in lines[::3]} == names


def test_show_plan():
    assert "closed" in output("show", "--stage", "plan", "--q-len", "512", WINDOW)


@pytest.mark.parametrize("text", [WINDOW, "score * 2.0"])
def test_show_triton(text):
    source = output("show", "--stage", "triton", "--head-dim", "64", text)
    assert "@triton.jit" in source
    compile(source, "kernel.py", "exec")


@pytest.mark.parametrize("text", [WINDOW, "score * 2.0"])
def test_show_hopper(text):
    source = output("show", "--stage", "hopper", "--head-dim", "64", text)
    assert "@gluon.jit" in source
    compile(source, "kernel.py", "exec")


def test_show_ptx():
    assert ".target sm_90" in output_of_process(
        "show", "--stage", "ptx", "--head-dim", "64", WINDOW
    )


def test_plan(tmp_path):
    picture = tmp_path / "plan.png"
    arguments = ["--q-len", "512", "--kv-len", "1024", "--tile", "64", "128", "--q-offset", "512"]
    text = output("plan", WINDOW, *arguments, "--heads", "2", "--plot", str(picture))
    assert "found in" in text and "solved for kv" in text and "FLOPs saved" in text
    assert picture.stat().st_size > 0


def test_demo():
    text = output_of_process("demo")
    assert "machine code" in text
    error = float(text.split("against dense float64")[1].split()[1])
    assert error < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "q >= kv an q"], "^^"),
        (["show", "no_such_file.py:mask"], "there is no file no_such_file.py"),
        (["show", "{file}:slidin"], "write instead: {file}:sliding"),
        (["show", "{file}:number"], "number is a int, not a mod"),
        (["show", "{file}:wrong"], "^"),
        (["plan", "score * 2.0"], "FX108"),
        (["plan", "mask f(t: i32[8]) = t[q] > 1"], "FX105"),
        (["plan", WINDOW, "--q-offset", "-1"], "FX201"),
        (["show", "--stage", "ptx", "--target", "cuda:1", WINDOW], "FX301"),
        (["show", "--stage", "triton", "--target", "cuda:1", WINDOW], "FX301"),
        (["show", "--stage", "hopper", "--head-dim", "80", WINDOW], "80/80 are none of"),
        (["plan", WINDOW, "--plot", "plan.gif"], "FX201"),
        (["show", "--stage", "ptx", "--head-dim", "4096", WINDOW], "FX201"),
        (["plan", WINDOW, "--q-len", "0"], "0 is not in the range"),
        (["compile"], "No such command"),
    ],
)
def test_mistakes(file, arguments, message):
    result = run(*(a.format(file=file) for a in arguments))
    assert result.exit_code == 2
    assert message.format(file=file) in result.output
    assert "Traceback" not in result.output
