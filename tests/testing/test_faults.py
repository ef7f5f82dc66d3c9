"""Planted faults in the analysis, the executors and the kernels: `verify` finds each of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import ir
from flexdsl.analysis import derivative
from flexdsl.codegen import Language, Phase
from flexdsl.errors import VerificationError
from flexdsl.testing import verification
from flexdsl.testing.reproduce import show_case
from support.verification import STDLIB, found, program_in, treat_partial_as_full

# --- planted faults ---------------------------------------------------------------------------


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


def shift_live_bound(monkeypatch):
    from flexdsl.analysis.closed_runs import Ends

    right = Ends._tile_ends

    def wrong(self, rows, count):
        low, high, full_low, full_high = right(self, rows, count)
        return low, high - 1, full_low, full_high

    monkeypatch.setattr(Ends, "_tile_ends", wrong)


def widen_full_bound(monkeypatch):
    from flexdsl.analysis.closed_runs import Ends

    right = Ends._tile_ends

    def wrong(self, rows, count):
        low, high, full_low, full_high = right(self, rows, count)
        return low, high, full_low, full_high + 1

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
        lambda self, rows, count: tuple(
            x + (self.outer == "kv" and n == 0) for n, x in enumerate(tile_ends(self, rows, count))
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


def leave_plans_stale_under_other_numbers(monkeypatch):
    """A plan is found again whatever the captured numbers are by now."""
    from flexdsl.ir import Program
    from flexdsl.runtime import memory

    right = memory._fingerprint

    def wrong(program):
        values = {n: v for n, v in program.values.items() if not isinstance(v, int)}
        return right(Program(program.kind, program.name, program.expr, values))

    monkeypatch.setattr(memory, "_fingerprint", lambda p: p and wrong(p))


def leave_plans_stale_under_other_contents(monkeypatch):
    """A plan is found again although a captured tensor was changed in place."""
    from flexdsl.runtime import memory

    monkeypatch.setattr(memory, "_contents", lambda capture: id(capture))


def swap_heads_of_groups(monkeypatch):
    """Query heads share keys as h % kv_heads, not as h // group: only GQA shows it."""
    from flexdsl.runtime import cpu

    right = cpu.split_heads

    def wrong(x, count):
        order = torch.arange(x.shape[1]).reshape(-1, count // x.shape[0]).T.flatten()
        return right(x[:, order], count)

    monkeypatch.setattr(cpu, "split_heads", wrong)


def lose_keys_that_no_tile_divides(monkeypatch):
    """The last, partial tile of keys is dropped from the grid of tiles."""
    from flexdsl.analysis.grid import Grid

    monkeypatch.setattr(Grid, "kv_tiles", property(lambda g: max(1, g.kv_len // g.tile[1])))


def derive_products_wrongly(monkeypatch):
    from flexdsl.runtime import cpu_score

    one = ir.const(1.0)
    # Derivatives are remembered by the expression, whichever test asked first.
    monkeypatch.setattr(cpu_score, "_derivatives", cpu_score._derivatives.__wrapped__)
    monkeypatch.setitem(derivative._RULES, ir.Op.MUL, lambda node: (one, one))


WINDOW = STDLIB["sinks"]
FAULTS = {
    leave_plans_stale_under_other_numbers: WINDOW,
    leave_plans_stale_under_other_contents: STDLIB["document"],
    swap_heads_of_groups: STDLIB["causal"],
    lose_keys_that_no_tile_divides: WINDOW,
    derive_products_wrongly: STDLIB["softcap"],
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


# --- faults of generated kernels, under the interpreter or on the GPU -------------------------

WINDOW_OF_100 = "q >= kv and q - kv < 100"
SMALL = {"q_len": 5, "kv_len": 7}  # the interpreter is slow, and these show with few rows, too
# The text of a kernel, what becomes of it; the mask and the sizes that it is looked for with.
KERNEL_FAULTS = {
    "no rescale": (Phase.FORWARD, "rescale = tl.exp2(", "rescale = 1.0 + 0.0 * tl.exp2("),
    "loop ends early": (
        Phase.FORWARD,
        "tl.range(full_stop, stop)",
        "tl.range(full_stop, stop - 1)",
    ),
    "full tiles end late": (
        Phase.FORWARD,
        "full_start, tl.minimum(tl.max",
        "full_start, 1 + tl.minimum(tl.max",
    ),
    "mask not applied": (Phase.FORWARD, "tl.where(allowed & ", "tl.where("),
    "other head": (Phase.FORWARD, "kv_head = h // group", "kv_head = (heads - 1 - h) // group"),
    "backward: other head": (
        Phase.BACKWARD_QUERY,
        "kv_head = h // group",
        "kv_head = (heads - 1 - h) // group",
    ),
    "backward: a head of the group is lost": (
        Phase.BACKWARD_KEY,
        "in range(0, group)",
        "in range(0, tl.maximum(1, group - 1))",
    ),
    "backward: partial tiles are lost": (
        Phase.BACKWARD_KEY,
        "in tl.range(0, masked_count_2)",
        "in tl.range(1, masked_count_2)",
    ),
    "backward: no delta": (
        Phase.BACKWARD_QUERY,
        "weights * (d_weights - delta_of_row)",
        "weights * d_weights",
    ),
}
FEW_ROWS = {"no rescale": ("kv % 5 != 3", {"q_len": 2, "heads": 1})}
FEW_ROWS |= {name: (WINDOW_OF_100, SMALL) for name in KERNEL_FAULTS if name.startswith("back")}
FEW_ROWS["other head"] = WINDOW_OF_100, SMALL


@pytest.fixture
def new_kernels(monkeypatch):
    from flexdsl.runtime import launch

    monkeypatch.setattr(launch, "_KERNELS", {})
    return launch


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_a_fault_in_the_text_of_a_kernel_is_found(fault, new_kernels, monkeypatch):
    phase, old, new = KERNEL_FAULTS[fault]
    right = new_kernels.GENERATORS[phase, Language.TRITON]

    def wrong(spec):
        kernel = right(spec)
        assert old in kernel.source
        return replace(kernel, source=kernel.source.replace(old, new))

    monkeypatch.setitem(new_kernels.GENERATORS, (phase, Language.TRITON), wrong)
    mask, sizes = FEW_ROWS.get(fault, (WINDOW_OF_100, {}))
    assert "on backend 'triton'" in found(mask, backend="triton", **sizes)


def test_a_wrong_derivative_in_a_kernel_is_found(new_kernels, monkeypatch):
    one = ir.const(1.0)
    monkeypatch.setitem(derivative._RULES, ir.Op.TANH, lambda node: (one,))
    softcap = fx.parse(STDLIB["softcap"].text)  # a mod that no kernel is remembered for
    assert "dq" in found(softcap, backend="triton")
