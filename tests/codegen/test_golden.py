"""The text of generated kernels. What they compute is tested in `test_execution.py`, on each.

`pytest --update-golden` writes the files anew; read the difference before it is committed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flexdsl.codegen import Phase, generate_unbound
from flexdsl.errors import ArgumentError
from tests.codegen.variants import CAUSAL, VARIANTS

GOLDEN = Path(__file__).parent / "golden"
# Every forward kernel; of the backward ones those whose loops or arithmetic are of a kind.
BACKWARD = ("causal", "causal_192_128", "sinks", "document", "softcap", "relative_bias")
KERNELS = [(name, Phase.FORWARD) for name in VARIANTS]
KERNELS += [("full", Phase.BACKWARD_ROWS)]
KERNELS += [(name, p) for name in BACKWARD for p in (Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY)]


def path_of(name: str, phase: Phase) -> Path:
    return GOLDEN / f"{name}_{phase.value}.txt"


@pytest.mark.parametrize(("name", "phase"), KERNELS)
def test_kernel_text(name: str, phase: Phase, update_golden: bool) -> None:
    v = VARIANTS[name]
    programs = [None if m is None else m.program for m in (v.mask, v.score)]
    kernel = generate_unbound(*programs, v.head_dim, v.value_dim, phase)
    # Where a mod stands in this repository's tests is no part of the kernel.
    lines = kernel.source.splitlines(keepends=True)
    text = "".join(n for n in lines if not n.startswith("    source: "))
    path = path_of(name, phase)
    if update_golden:
        path.write_text(text)
    assert path.exists(), f"no {path.name}: run pytest --update-golden and read it"
    assert text == path.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert set(GOLDEN.iterdir()) == {path_of(*kernel) for kernel in KERNELS}


def test_source_of_a_mod() -> None:
    assert "def forward(" in CAUSAL.source()
    assert "def backward_key(" in CAUSAL.source("backward_key", head_dim=64)
    with pytest.raises(ArgumentError, match="backward_query"):
        CAUSAL.source("sideways")
