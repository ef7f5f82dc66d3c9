"""Machine code for GPUs that are not there: every variant for Hopper, some for every target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

import flexdsl as fx
from flexdsl.aot import TARGETS, compile_kernel, parse_target
from flexdsl.errors import ArgumentError, TargetError
from tests.codegen.variants import VARIANTS

SOME = ("causal", "sinks", "document", "softcap")
OTHERS = ("cuda:80", "cuda:100", "hip:gfx942")
JOBS = [f"{name}@cuda:90@bf16" for name in VARIANTS]
JOBS += [f"{name}@{target}@fp16" for name in SOME for target in OTHERS]
BACKWARD = ("backward_rows", "backward_query", "backward_key")
JOBS += [f"softcap@cuda:90@bf16@{phase}" for phase in BACKWARD]
JOBS += [f"document@{target}@fp16@{phase}" for target in OTHERS for phase in BACKWARD[1:]]
# Kernels in Gluon: the forward one of head dimension 128, the backward one of each.
OF_HOPPER = [f"{name}@cuda:90@bf16@forward@128" for name in VARIANTS]
OF_HOPPER += [f"{name}@cuda:90@fp16@forward@{d}" for name in ("sinks", "alibi") for d in (96, 256)]
OF_HOPPER_BACKWARD = [
    f"{name}@cuda:90@bf16@backward@{d}"
    for name in ("causal", "document", "softcap", "products")
    for d in (64, 128)
]
OF_HOPPER_BACKWARD += ["softcap@cuda:90@fp16@backward@96"]  # in tiles of 128 columns
# Those whose consumers have one result each.
WIDE = [f"{n}@cuda:90@bf16@backward@{d}" for n in ("causal", "softcap") for d in ("192/128", 256)]
OF_HOPPER_BACKWARD += [*WIDE, *(f"products@cuda:90@fp16@backward@{d}" for d in ("192/128", 256))]
# Those that read their mask as bits: two and three consumers, a score without loads and with one.
OF_BITS = [f"full@cuda:90@bf16@bits@{d}" for d in (64, 96, 128, 256)]
OF_BITS += [f"{n}@cuda:90@fp16@bits@{d}" for n in ("softcap", "relative_bias") for d in (64, 128)]
# Of those, consumers that skip tiles; there are two.
SKIPPING = [f"full@cuda:90@bf16@skipping@{d}" for d in (96, 128)]
SKIPPING += [f"{n}@cuda:90@fp16@skipping@128" for n in ("softcap", "relative_bias")]
OF_BITS += SKIPPING
# Consumers that skip blocks which a captured tensor leaves out, and evaluate their mask.
OF_BLOCKS = [f"full@cuda:90@bf16@blocks@{d}" for d in (64, 128, 256)]
OF_BLOCKS += ["causal@cuda:90@bf16@blocks@128"]
BITS_BACKWARD = [f"full@cuda:90@bf16@backward_bits@{d}" for d in (64, 128, 256)]
BITS_BACKWARD += [
    f"{n}@cuda:90@fp16@backward_bits@{d}" for n in ("softcap", "relative_bias") for d in (64, 128)
]
EVALUATED_BACKWARD = [f"neighborhood@cuda:90@bf16@backward@{d}" for d in (64, 128)]
BLOCKS_BACKWARD = [f"{name}@cuda:90@bf16@backward_blocks@128" for name in ("full", "causal")]
JOBS += [*OF_BLOCKS, *BLOCKS_BACKWARD]
JOBS += [*OF_BITS, *(f"neighborhood@{t}@bf16@mask_bits" for t in ("cuda:90", "hip:gfx942"))]
JOBS += [*BITS_BACKWARD, *EVALUATED_BACKWARD, "neighborhood@cuda:90@bf16@mask_bits_key"]
JOBS += [*OF_HOPPER, *OF_HOPPER_BACKWARD]
JOBS += [f"full@cuda:90@bf16@backward_sums@{d}" for d in (96, 128, 256)]
JOBS += [f"{name}@cuda:90@bf16@plan_states" for name in ("document", "neighborhood", "sinks")]
JOBS += [f"document@{t}@bf16@plan_states" for t in ("cuda:80", "hip:gfx942")]
JOBS += [f"document@{t}@bf16@plan_refine" for t in ("cuda:90", "cuda:80", "hip:gfx942")]
JOBS += [f"causal@cuda:90@bf16@{phase}" for phase in ("plan_counts", "plan_runs")]
JOBS += [f"products@cuda:80@fp16@{phase}" for phase in ("factors", "forward", "backward_key")]
JOBS += ["products@hip:gfx942@fp16@factors"]
JOBS += [f"decay@{target}@fp16@differences" for target in OTHERS]
# Those of captured tensors alone; of relative biases at the head dimensions of their two tiles.
OF_LEARNED = [f"alibi@cuda:90@bf16@backward_learned_query@{d}" for d in (64, 128, 256)]
OF_LEARNED += [f"products@cuda:90@fp16@backward_learned_key@{d}" for d in (64, 96, "192/128")]
OF_LEARNED += [f"relative_bias@cuda:90@bf16@backward_diagonal@{d}" for d in (128, 256)]
JOBS += OF_LEARNED
OF_FEW = [
    f"{name}@cuda:90@bf16@forward_split@128"
    for name in (*SOME, "full", "packed_causal", "strided_heads", "alibi", "relative_bias")
]
OF_FEW += [f"products@cuda:90@fp16@forward_split@{d}" for d in (64, 256)]
OF_FEW += [f"{name}@{t}@fp16@forward_split" for name in ("sinks", "document") for t in OTHERS]
JOBS += [*OF_FEW, "causal@cuda:80@fp32@forward_split"]
JOBS += [f"full@{target}@bf16@forward_merge@192/128" for target in ("cuda:90", *OTHERS)]
JOBS += ["causal@cuda:80@fp32", "causal@cuda:90@fp32", "causal_192_128@hip:gfx942@bf16"]


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.aot.compile_all", *JOBS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {facts["job"]: facts for facts in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("job", JOBS)
def test_machine_code(job: str, compiled: dict[str, dict[str, Any]]) -> None:
    facts = compiled[job]
    assert facts["magic"] == "\x7fELF" and facts["bytes"] > 1000 and facts["text"]


def test_hopper_uses_its_own_instructions(compiled: dict[str, dict[str, Any]]) -> None:
    for name in VARIANTS.keys() - {"nothing"}:
        facts = compiled[f"{name}@cuda:90@bf16"]
        assert facts["wgmma"] > 0 and facts["mma"] == 0 and facts["tma_loads"] > 2, facts


def test_forward_in_gluon_spills_nothing(compiled: dict[str, dict[str, Any]]) -> None:
    for job in (*OF_HOPPER, *OF_BITS, *OF_BLOCKS):
        facts = compiled[job]
        assert facts["language"] == "gluon" and facts["wgmma"] > 0 and facts["tma_loads"] > 2
        assert facts["spills"] == 0, facts


def test_bits_stay_with_the_threads_that_loaded_them(compiled: dict[str, dict[str, Any]]) -> None:
    """Words are spread over a thread's own scores: nothing moves between threads for it."""
    phases = (compiled[f"full@cuda:90@bf16@{phase}@128"] for phase in ("bits", "forward"))
    with_bits, without = (facts["shuffles"] for facts in phases)
    assert with_bits == without > 0
    for bits, evaluated in zip(BITS_BACKWARD[:2], EVALUATED_BACKWARD, strict=True):
        assert compiled[bits]["shuffles"] == compiled[evaluated]["shuffles"] > 0


def test_bits_take_fewer_registers_than_the_arithmetic_of_a_mask(
    compiled: dict[str, dict[str, Any]],
) -> None:
    for bits, evaluated in zip(BITS_BACKWARD[:2], EVALUATED_BACKWARD, strict=True):
        assert compiled[bits]["spills"] < compiled[evaluated]["spills"]


def test_products_in_gluon_run_side_by_side(compiled: dict[str, dict[str, Any]]) -> None:
    """Where ptxas lets one product wait for another, it waits as often as it multiplies."""
    for job in (
        *OF_HOPPER,
        *OF_BITS,
        *OF_BLOCKS,
        *OF_HOPPER_BACKWARD,
        *BITS_BACKWARD,
        *BLOCKS_BACKWARD,
    ):
        facts = compiled[job]
        assert facts["language"] == "gluon" and facts["waits"] * 3 < facts["products"], facts


def test_a_backward_of_one_result_each_spills_nothing_in_its_loops(
    compiled: dict[str, dict[str, Any]],
) -> None:
    """What is spilled, once for a work, is at most two registers: each is stored and loaded."""
    for job in WIDE:
        assert compiled[job]["spills"] <= 4, compiled[job]


def test_backward_on_hopper_uses_its_own_instructions(compiled: dict[str, dict[str, Any]]) -> None:
    for phase in ("backward_query", "backward_key"):
        facts = compiled[f"softcap@cuda:90@bf16@{phase}"]
        assert facts["wgmma"] > 0 and facts["mma"] == 0 and facts["tma_loads"] > 2, facts


def test_kernels_of_captured_tensors_have_two_products(
    compiled: dict[str, dict[str, Any]],
) -> None:
    for job in OF_LEARNED:
        facts = compiled[job]
        assert facts["wgmma"] > 0 and facts["mma"] == 0 and facts["spills"] == 0, facts


def test_others_use_matrix_instructions(compiled: dict[str, dict[str, Any]]) -> None:
    for name in SOME:
        for target in OTHERS:
            assert compiled[f"{name}@{target}@fp16"]["mma"] > 0


def test_few_queries_use_matrix_instructions(compiled: dict[str, dict[str, Any]]) -> None:
    for job in OF_FEW:
        facts = compiled[job]
        assert facts["mma"] > 0 and facts["spills"] <= 2, facts  # one register, before the loops
        assert facts["tma_loads"] > 2 or "cuda:90" not in job, facts


@pytest.mark.parametrize("name", ["cuda:91", "cuda", "hip:90", ""])
def test_unknown_target(name: str) -> None:
    with pytest.raises(TargetError, match="cuda:90"):
        parse_target(name)


def test_names_of_targets() -> None:
    assert all(parse_target(name).name == name for name in TARGETS)


def test_wrong_arguments() -> None:
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv)
    with pytest.raises(ArgumentError, match="bf16"):
        compile_kernel(mask, dtype="fp8")
    with pytest.raises(ArgumentError, match="256"):
        compile_kernel(mask, head_dim=512)
