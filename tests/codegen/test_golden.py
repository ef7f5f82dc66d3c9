"""The text of generated kernels. What they compute is tested in `test_execution.py`, on each.

`pytest --update-golden` writes the files anew; read the difference before it is committed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexdsl import stdlib
from flexdsl.codegen import Kernel, Language, Phase, generate_unbound, unbound_spec
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.errors import ArgumentError
from flexdsl.ir import captures_of
from tests.codegen.variants import CAUSAL, VARIANTS

GOLDEN = Path(__file__).parent / "golden"
# Every forward kernel; of the backward ones those whose loops or arithmetic are of a kind.
BACKWARD = ("causal", "causal_192_128", "sinks", "document", "softcap", "relative_bias", "products")
OF_HOPPER = (
    "causal",
    "causal_192_128",
    "sinks",
    "document",
    "packed_causal",
    "softcap",
    "products",
)
OF_HOPPER_BACKWARD = ("causal", "causal_192_128", "document", "softcap", "products")
KERNELS = [(name, Phase.FORWARD, Language.TRITON) for name in VARIANTS]
KERNELS += [("full", p, Language.TRITON) for p in (Phase.BACKWARD_ROWS, Phase.BACKWARD_SUMS)]
KERNELS += [
    (name, phase, Language.TRITON)
    for name in BACKWARD
    for phase in (Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY)
]
KERNELS += [(name, Phase.FORWARD, Language.GLUON) for name in OF_HOPPER]
KERNELS += [(name, Phase.BACKWARD, Language.GLUON) for name in OF_HOPPER_BACKWARD]
# Of few queries: formulas with several intervals, tiles that lie apart, and a table.
KERNELS += [
    (name, Phase.FORWARD_SPLIT, Language.TRITON) for name in ("sinks", "strided_heads", "document")
]
KERNELS += [("full", Phase.FORWARD_MERGE, Language.TRITON)]
KERNELS += [("products", Phase.FACTORS, Language.TRITON)]
KERNELS += [("decay", Phase.DIFFERENCES, Language.TRITON)]
# What plans a mask on a device: loads and a comparison of them, quotients and remainders.
KERNELS += [(name, Phase.PLAN_STATES, Language.TRITON) for name in ("document", "neighborhood")]
KERNELS += [("full", p, Language.TRITON) for p in (Phase.PLAN_COUNTS, Phase.PLAN_RUNS)]
KERNELS += [("document", Phase.PLAN_REFINE, Language.TRITON)]
KERNELS += [("neighborhood", p, Language.TRITON) for p in (Phase.MASK_BITS, Phase.MASK_BITS_KEY)]
# Those of captured tensors alone, all of which are learned.
LEARNED = [
    ("alibi", Phase.BACKWARD_LEARNED_QUERY),
    ("products", Phase.BACKWARD_LEARNED_KEY),
    ("relative_bias", Phase.BACKWARD_DIAGONAL),
]
# Whatever the mask is.
READ_BITS = [("bits", phase, Language.GLUON) for phase in (Phase.FORWARD, Phase.BACKWARD)]
READ_BITS += [("skipping", Phase.FORWARD, Language.GLUON)]
# Whose consumers skip the blocks that a captured tensor leaves out.
BLOCKS = [("blocks", phase, Language.GLUON) for phase in (Phase.FORWARD, Phase.BACKWARD)]
# Of a score that is proven small.
BOUNDED = ("bounded", Phase.FORWARD, Language.GLUON)


def path_of(name: str, phase: Phase, language: Language) -> Path:
    target = "_hopper" if language is Language.GLUON else ""
    return GOLDEN / f"{name}_{phase.value}{target}.txt"


@pytest.mark.parametrize(("name", "phase", "language"), KERNELS)
def test_kernel_text(name: str, phase: Phase, language: Language, update_golden: bool) -> None:
    v = VARIANTS[name]
    programs = [None if m is None else m.program for m in (v.mask, v.score)]
    kernel = generate_unbound(*programs, v.head_dim, v.value_dim, phase, language)
    expect_text(kernel, path_of(name, phase, language), update_golden)


@pytest.mark.parametrize(("name", "phase"), LEARNED)
def test_text_of_a_kernel_of_captured_tensors(name: str, phase: Phase, update_golden: bool) -> None:
    score = VARIANTS[name].score
    assert score is not None
    spec = unbound_spec(CAUSAL.program, score.program, 64, 64, phase)
    learned = frozenset(c.name for c in captures_of(score.program.expr))
    kernel = GENERATORS[phase, Language.TRITON](replace(spec, learned=learned))
    expect_text(kernel, path_of(name, phase, Language.TRITON), update_golden)


@pytest.mark.parametrize(("name", "phase", "language"), READ_BITS)
def test_text_of_a_kernel_that_reads_its_mask_as_bits(
    name: str, phase: Phase, language: Language, update_golden: bool
) -> None:
    spec = replace(unbound_spec(None, None, 128, 128), closed_form=None, mask_bits=True)
    kernel = GENERATORS[phase, language](replace(spec, skips=name == "skipping"))
    expect_text(kernel, path_of(name, phase, language), update_golden)


@pytest.mark.parametrize(("name", "phase", "language"), BLOCKS)
def test_text_of_a_kernel_that_skips_chosen_blocks(
    name: str, phase: Phase, language: Language, update_golden: bool
) -> None:
    mask = stdlib.block_table(np.eye(6, dtype=bool), 64)
    spec = replace(unbound_spec(mask.program, None, 128, 128), closed_form=None, skips=True)
    expect_text(GENERATORS[phase, language](spec), path_of(name, phase, language), update_golden)


def test_text_of_a_kernel_without_a_maximum(update_golden: bool) -> None:
    score = VARIANTS["softcap"].score
    assert score is not None
    spec = unbound_spec(CAUSAL.program, score.program, 128, 128)
    kernel = GENERATORS[BOUNDED[1:]](replace(spec, bounded=True))
    expect_text(kernel, path_of(*BOUNDED), update_golden)


def expect_text(kernel: Kernel, path: Path, update: bool) -> None:
    """The text of a kernel is that of the golden file, which is written first to `update` it."""
    # Where a mod stands in this repository's tests is no part of the kernel.
    lines = kernel.source.splitlines(keepends=True)
    text = "".join(n for n in lines if not n.startswith("    source: "))
    if update:
        path.write_text(text)
    assert path.exists(), f"no {path.name}: run pytest --update-golden and read it"
    assert text == path.read_text()


def test_no_golden_file_is_left_over() -> None:
    learned = ((*of, Language.TRITON) for of in LEARNED)
    assert set(GOLDEN.iterdir()) == {
        path_of(*of) for of in (*KERNELS, *READ_BITS, *BLOCKS, BOUNDED, *learned)
    }


def test_source_of_a_mod() -> None:
    assert "def forward(" in CAUSAL.source()
    assert "def backward_key(" in CAUSAL.source("backward_key", head_dim=64)
    with pytest.raises(ArgumentError, match="backward_query"):
        CAUSAL.source("sideways")


def test_source_of_a_mod_for_hopper() -> None:
    for phase in ("forward", "backward"):
        source = CAUSAL.source(phase, target="hopper", head_dim=64)
        assert "@gluon.jit" in source and f"def {phase}(" in source
        compile(source, "kernel.py", "exec")
    score = VARIANTS["softcap"].score
    assert score is not None and "tanh(" in score.source(target="hopper", head_dim=64)


@pytest.mark.parametrize(
    ("phase", "target", "head_dim", "message"),
    [
        ("forward", "rocket", 64, "no target 'rocket'.*'triton', 'hopper'"),
        ("backward_key", "hopper", 64, "no kernel for target 'hopper'.*'forward', 'backward'"),
        ("backward", "triton", 64, "no kernel for target 'triton'.*'backward_query'"),
        ("forward", "hopper", 80, "head dimensions 80/80 are none of"),
        ("factors", "triton", 64, "writes the factors of products, and there are none"),
        ("differences", "triton", 64, "writes tables of q - kv, and there are none"),
    ],
)
def test_what_no_target_has(phase: str, target: str, head_dim: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"(?s){message}"):
        CAUSAL.source(phase, target=target, head_dim=head_dim)
