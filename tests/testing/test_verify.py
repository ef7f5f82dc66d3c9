"""`verify`: correct mods pass, and each planted fault is found, shrunk and reproduced."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.database import InMemoryExampleDatabase

import flexdsl as fx
from flexdsl import ir
from flexdsl.analysis import derivative
from flexdsl.codegen import Phase
from flexdsl.errors import (
    ArgumentError,
    BackendError,
    IndexRangeError,
    KindError,
    TextError,
    VerificationError,
)
from flexdsl.ir import Kind
from flexdsl.mod import Mod
from flexdsl.testing import Case, Limits, check, parse_with, strategies, verification
from flexdsl.testing.reproduce import _literal, show_case

IDS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 5, 5, 5, 5, 6])
BIAS = torch.linspace(-1, 1, 33)


@fx.mask_mod
def packed(b, h, q, kv):
    return IDS[q] == IDS[kv] and q >= kv


@fx.score_mod
def kinked(score, b, h, q, kv):
    return score if score > 0.5 else fx.maximum(2.0 * score, -1.0)


STDLIB = {
    "causal": fx.stdlib.causal(),
    "bottom right": fx.stdlib.causal_bottom_right(5, 9),
    "window": fx.stdlib.sliding_window(7),
    "sinks": fx.stdlib.attention_sink(3, 8),
    "prefix": fx.stdlib.prefix_lm(6),
    "document": fx.stdlib.document(IDS),
    "alibi": fx.stdlib.alibi(4),
    "softcap": fx.stdlib.softcap(2.0),
}


@pytest.mark.parametrize("name", STDLIB)
def test_the_library_verifies(name):
    report = fx.verify(STDLIB[name], examples=30)
    assert report.examples >= 30
    assert report.pairs > 1000
    assert set(report.worst) >= {"out", "lse", "dq", "dk", "dv"}
    assert 0.0 < report.worst_of_bound < 1.0
    assert "verified in" in str(report)


def test_a_report_says_what_captured_tensors_allow():
    report = fx.verify(packed, examples=10)
    assert report.limits == Limits(batch=3, heads=6, q_positions=16, kv_len=16)
    assert report.limited
    assert "as captured tensors allow" in str(report)
    alibi = fx.verify(fx.stdlib.alibi(4), examples=10)
    assert alibi.limits.heads == 4
    assert "gradient by slope" in alibi.worst


def test_limits_that_depend_on_each_other():
    bias = fx.score_mod(lambda score, b, h, q, kv: score + BIAS[q + kv])
    limits = fx.verify(bias, examples=5).limits
    assert limits.q_positions + limits.kv_len == len(BIAS) + 1
    assert min(limits.q_positions, limits.kv_len) > 10


@pytest.mark.filterwarnings("ignore::flexdsl.errors.GradientWarning")
def test_a_score_is_verified_under_its_mask():
    near = fx.score_mod(lambda score, b, h, q, kv: score + BIAS[q - kv])
    assert fx.verify(near, examples=5).limits.kv_len == 1
    assert fx.verify(near, mask="q >= kv and q - kv <= 32", examples=10).limits.kv_len == 48
    assert fx.verify(kinked, mask=packed, examples=10).examples >= 10


def test_sizes_can_be_fixed():
    report = fx.verify("q >= kv", examples=5, q_len=4, kv_len=9, heads=2)
    assert (report.limits.kv_len, report.limits.heads) == (9, 2)
    assert report.pairs % (4 * 9 * 2) == 0


@settings(max_examples=25)
@given(strategies.masks(), strategies.cases(dtypes=("float32", "float64")))
def test_any_mask(mask, case):
    check(mask, case)


@settings(max_examples=25)
@given(strategies.scores(), strategies.masks(depth=1), strategies.cases(exact=True))
def test_any_score(score, mask, case):
    check(score, case, mask=mask)


def test_drawn_captures_are_of_the_dtype_and_shape():
    @settings(max_examples=20)
    @given(
        strategies.captures(torch.int32, (2, 5)),
        strategies.captures(torch.bool, (3,)),
        strategies.captures(torch.bfloat16, (4,)),
    )
    def test(integers, bools, floats):
        assert (integers.dtype, integers.shape) == (torch.int32, (2, 5))
        assert (bools.dtype, floats.dtype) == (torch.bool, torch.bfloat16)
        assert bool((floats.float().abs() <= 1).all())

    test()


# --- planted faults ---------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fresh_cases():
    """No case of an earlier test or run helps to find a fault."""
    name = settings.get_current_profile_name()
    empty = InMemoryExampleDatabase()
    settings.register_profile("fresh cases", settings.get_profile(name), database=empty)
    settings.load_profile("fresh cases")
    yield
    settings.load_profile(name)


def test_a_failing_case_is_the_first_one_of_the_next_run(monkeypatch):
    seen = []
    right = verification.allowed_pairs

    def spied(subject, case):
        seen.append(case)
        return right(subject, case)

    treat_partial_as_full(monkeypatch)
    mask = fx.parse("q >= kv and kv % 7 != 3")
    message = found(mask)
    monkeypatch.setattr(verification, "allowed_pairs", spied)
    assert found(mask) == message
    assert show_case(seen[0]) in message


def found(mod, **how) -> str:
    """What `verify` says with its default number of examples."""
    with pytest.raises(VerificationError) as caught:
        fx.verify(mod, **how)
    assert "smallest case found: Case(" in str(caught.value)
    return str(caught.value)


def shift_live_bound(monkeypatch):
    from flexdsl.analysis.closed_runs import Ends

    right = Ends._tile_ends

    def wrong(self, which):
        low, high = right(self, which)
        return low, high - (which == "live")

    monkeypatch.setattr(Ends, "_tile_ends", wrong)


def widen_full_bound(monkeypatch):
    from flexdsl.analysis.closed_runs import Ends

    right = Ends._tile_ends

    def wrong(self, which):
        low, high = right(self, which)
        return low, high + (which == "full")

    monkeypatch.setattr(Ends, "_tile_ends", wrong)


def shift_transposed_bound(monkeypatch):
    from flexdsl.analysis.closed_runs import Ends

    right = Ends.of_rows

    def wrong(self, b, h, rows):
        low, high = right(self, b, h, rows)
        return low + (self.outer == "kv"), high

    monkeypatch.setattr(Ends, "of_rows", wrong)
    tile_ends = Ends._tile_ends
    monkeypatch.setattr(
        Ends,
        "_tile_ends",
        lambda self, which: tuple(
            x + (self.outer == "kv" and which == "live" and n == 0)
            for n, x in enumerate(tile_ends(self, which))
        ),
    )


def forget_offset_in_plan(monkeypatch):
    from flexdsl.runtime import bind

    right = bind.find_plan

    def wrong(program, lengths, tile):
        made = right(program, lengths, tile)
        if program is None or not lengths.q_offset:
            return made
        return fx.plan(bind.from_program(program), made.q_len, made.kv_len, batch=made.batch,
                       heads=made.heads, tile=tile)  # fmt: skip

    monkeypatch.setattr(bind, "find_plan", wrong)


def drop_last_partial_tile(monkeypatch):
    from flexdsl.analysis.plan import BlockPlan
    from flexdsl.runtime import slabs

    class Wrong:
        def __init__(self, plan):
            self.plan, self.tile_shape, self.kv_len = plan, plan.tile_shape, plan.kv_len

        def runs(self, b, h, tile):
            runs = self.plan.runs(b, h, tile)
            return runs[:-1] if runs and not runs[-1].full else runs

    right = slabs.live_keys
    assert BlockPlan.runs
    monkeypatch.setattr(slabs, "live_keys", lambda plan, *at: right(Wrong(plan), *at))


def treat_partial_as_full(monkeypatch):
    from flexdsl.runtime import cpu, cpu_backward

    for module in (cpu, cpu_backward):
        monkeypatch.setattr(module, "exclude", lambda space, slab, scores: None)


def exclude_not_in_backward(monkeypatch):
    from flexdsl.runtime import cpu_backward

    monkeypatch.setattr(cpu_backward, "exclude", lambda space, slab, scores: None)


def miss_rescale(monkeypatch):
    """Weights are relative to the largest of the first half of the keys, and never corrected."""
    from flexdsl.runtime import cpu

    right = cpu._softmax_

    def wrong(scores):
        half = scores[..., : max(1, scores.shape[-1] // 2)].amax(-1)
        top = scores.amax(-1)
        lse = right(scores)
        off = torch.where((half > -math.inf) & (top > -math.inf), (half - top), 0.0)
        return lse.add_(off)

    monkeypatch.setattr(cpu, "_softmax_", wrong)


def swap_heads(monkeypatch):
    """Keys and values of another head, or batch."""
    from flexdsl.runtime import cpu, cpu_backward

    right = cpu.gather
    for module in (cpu, cpu_backward):
        monkeypatch.setattr(module, "gather", lambda x, slab: right(x.flip(0), slab))


def number_heads_wrongly(monkeypatch):
    from flexdsl.runtime.cpu import Workspace

    right = Workspace.positions

    def wrong(self, slab, columns=slice(None)):
        return (at := right(self, slab, columns)) | {"h": at["h"] // self.q.shape[1]}

    monkeypatch.setattr(Workspace, "positions", wrong)


def forget_offset_in_executor(monkeypatch):
    from flexdsl.runtime.cpu import Workspace

    right = Workspace.positions

    def wrong(self, slab, columns=slice(None)):
        at = right(self, slab, columns)
        return at | {"q": at["q"] - self.problem.q_offset}

    monkeypatch.setattr(Workspace, "positions", wrong)


def derive_as_identity(monkeypatch):
    from flexdsl.runtime.cpu_score import ModifiedScores

    monkeypatch.setattr(ModifiedScores, "pull_back", lambda self, dscores, totals: dscores)


def forget_delta(monkeypatch):
    from flexdsl.runtime import cpu_backward

    right = cpu_backward._incoming

    def wrong(*arguments):
        incoming = right(*arguments)
        return replace(incoming, delta=torch.zeros_like(incoming.delta))

    monkeypatch.setattr(cpu_backward, "_incoming", wrong)


def miscount_pairs(monkeypatch):
    from flexdsl.analysis.closed_runs import Ends

    right = Ends.row_counts
    monkeypatch.setattr(
        Ends, "row_counts", lambda self: (np.minimum(counts, 30) for counts in right(self))
    )


def evaluate_less_wrongly(monkeypatch):
    """On tensors only: the executor and the reference agree, and the function does not."""
    from flexdsl.ir import Op
    from flexdsl.runtime import evaluate

    monkeypatch.setitem(evaluate.TORCH, Op.TANH, torch.sin)


def drop_runs_of_tables(monkeypatch):
    from flexdsl.analysis.table import RunTable

    right = RunTable.runs
    monkeypatch.setattr(RunTable, "runs", lambda self, row: right(self, row)[:2])


WINDOW = STDLIB["sinks"]
FAULTS = {
    shift_live_bound: WINDOW,
    widen_full_bound: WINDOW,
    shift_transposed_bound: STDLIB["causal"],
    forget_offset_in_plan: WINDOW,
    drop_last_partial_tile: WINDOW,
    treat_partial_as_full: WINDOW,
    exclude_not_in_backward: WINDOW,
    miss_rescale: WINDOW,
    swap_heads: STDLIB["causal"],
    number_heads_wrongly: STDLIB["alibi"],
    forget_offset_in_executor: WINDOW,
    derive_as_identity: STDLIB["softcap"],
    forget_delta: STDLIB["softcap"],
    miscount_pairs: STDLIB["causal"],
    evaluate_less_wrongly: STDLIB["softcap"],
    drop_runs_of_tables: fx.mask_mod(lambda b, h, q, kv: (q // 3) % 2 == (kv // 3) % 2),
}


@pytest.mark.parametrize("plant", FAULTS, ids=lambda f: f.__name__)
def test_a_planted_fault_is_found(plant, monkeypatch):
    plant(monkeypatch)
    message = found(FAULTS[plant])
    print(message)
    assert "parse_with(" in message
    with pytest.raises(VerificationError):
        exec(program_in(message), {})


def program_in(message: str) -> str:
    _, _, program = message.partition("reproduces it:\n\n")
    return textwrap.dedent(program)


# --- faults of generated kernels, under the interpreter or on the GPU -------------------------

KERNEL_FAULTS = {
    "no rescale": ("rescale = tl.exp2(", "rescale = 1.0 + 0.0 * tl.exp2("),
    "loop ends early": ("tl.range(full_stop, stop)", "tl.range(full_stop, stop - 1)"),
    "full tiles end late": ("full_start, tl.minimum(tl.max", "full_start, 1 + tl.minimum(tl.max"),
    "mask not applied": ("tl.where(allowed & ", "tl.where("),
    "other head": ("kv_head = h // group", "kv_head = (heads - 1 - h) // group"),
}


@pytest.fixture
def new_kernels(monkeypatch):
    from flexdsl.runtime import launch

    monkeypatch.setattr(launch, "_KERNELS", {})
    return launch


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_a_fault_in_the_text_of_a_kernel_is_found(fault, new_kernels, monkeypatch):
    right, (old, new) = new_kernels.GENERATORS[Phase.FORWARD], KERNEL_FAULTS[fault]

    def wrong(spec):
        kernel = right(spec)
        assert old in kernel.source
        return replace(kernel, source=kernel.source.replace(old, new))

    monkeypatch.setitem(new_kernels.GENERATORS, Phase.FORWARD, wrong)
    assert "on backend 'triton'" in found("q >= kv and q - kv < 100", backend="triton")


def test_a_wrong_derivative_in_a_kernel_is_found(new_kernels, monkeypatch):
    one = ir.const(1.0)
    monkeypatch.setitem(derivative._RULES, ir.Op.TANH, lambda node: (one,))
    assert "dq" in found(STDLIB["softcap"], backend="triton")


# --- faults of a user's mod -------------------------------------------------------------------


def test_a_function_that_is_not_its_expression():
    wrong = Mod(Kind.MASK, "odd", lambda: fx.parse("q > kv").program, lambda b, h, q, kv: q >= kv)
    message = found(wrong)
    assert "odd(0, 0, 0, 0) is True, but its expression says False" in message
    assert "Case() on backend" in message
    assert "its text form alone does not fail" in message


def test_a_mask_that_is_not_deterministic():
    answers = itertools.count()

    def counting(b, h, q, kv):
        return next(answers) % 3 == 0

    always = fx.parse("q >= 0").program
    message = found(Mod(Kind.MASK, "counting", lambda: always, counting))
    assert "counting is not deterministic: counting(0, 0, 0, 0) is" in message
    assert "Case() on backend" in message


def test_a_mask_that_raises_for_some_pairs():
    message = found(lambda b, h, q, kv: 12 % (kv - 4) == 0)
    assert "raises ZeroDivisionError" in message
    assert "Case(kv_len=5)" in message


def test_captures_in_the_program_are_cut_to_the_case(monkeypatch):
    treat_partial_as_full(monkeypatch)
    message = found(packed)
    assert "IDS=torch.tensor([0], dtype=torch.int64)" in message


def test_the_error_crosses_processes():
    error = VerificationError("what")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "FX401: what"


# --- mistakes ---------------------------------------------------------------------------------


def test_mistakes_are_clear_errors():
    with pytest.raises(ArgumentError, match="examples is 0"):
        fx.verify("q >= kv", examples=0)
    with pytest.raises(ArgumentError, match="backend is 'tpu'"):
        fx.verify("q >= kv", backend="tpu")
    with pytest.raises(KindError, match="a mask mod is a function, a Mod or text, not int"):
        fx.verify(3)
    with pytest.raises(KindError, match="is a mask, and mask= is given too"):
        fx.verify("q >= kv", mask="q >= kv")
    with pytest.raises(TextError):
        fx.verify("q >= ")
    with pytest.raises(IndexRangeError, match="IDS has 16 elements"):
        fx.verify(packed, kv_len=17)


def test_a_backend_that_cannot_run_here_is_said_at_once(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="without a GPU"):
        fx.verify("q >= kv", backend="triton")


def test_without_hypothesis_the_fix_is_named():
    code = """
import sys
sys.modules["hypothesis"] = None
import flexdsl as fx
from flexdsl.testing import Case, check
check("q >= kv", Case(q_len=3, kv_len=3))
try:
    fx.verify("q >= kv")
except fx.errors.ArgumentError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs hypothesis" in out.stdout
    assert "pip install 'flexdsl[testing]'" in out.stdout


def test_the_program_of_a_captured_infinity_runs():
    holes = torch.tensor([0.0, -math.inf, math.nan])
    again = eval(_literal(holes))
    assert torch.equal(again.nan_to_num(7.0), holes.nan_to_num(7.0))
    mod = parse_with("score holes(x: f32[3]) = score + x[kv]", x=torch.tensor([0.0, -math.inf]))
    check(mod, Case(q_len=2, kv_len=2))
