"""The text of generated kernels. What they compute is tested in `test_execution.py`, on each.

`pytest --update-golden` writes the files anew; read the difference before it is committed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flexdsl.codegen import forward_spec, generate_forward
from tests.codegen.variants import VARIANTS

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", VARIANTS)
def test_kernel_text(name: str, update_golden: bool) -> None:
    variant = VARIANTS[name]
    programs = [None if m is None else m.program for m in (variant.mask, variant.score)]
    spec = forward_spec(*programs, variant.head_dim, variant.value_dim)
    # Where a mod stands in this repository's tests is no part of the kernel.
    lines = generate_forward(spec).source.splitlines(keepends=True)
    text = "".join(n for n in lines if not n.startswith("    source: "))
    path = GOLDEN / f"{name}.txt"
    if update_golden:
        path.write_text(text)
    assert path.exists(), f"no golden file for {name}: run pytest --update-golden and read it"
    assert text == path.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {p.stem for p in GOLDEN.iterdir()} == set(VARIANTS)
