"""Plans made by kernels: every state is sound, the run table says the states, attention uses both.

Kernels run under Triton's interpreter, and on a GPU where there is one.
"""

from __future__ import annotations

import warnings
from functools import partial, reduce
from itertools import chain
from operator import or_

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.analysis import make_plan, table
from flexdsl.codegen.extremes import ELEMENTS, LEVELS
from flexdsl.codegen.members import BITS, WORDS
from flexdsl.runtime import bind, device_plan, memory
from flexdsl.runtime.extremes import elements, extremes
from flexdsl.runtime.members import members
from support.calls import MASKS, Shape, assert_near, oracle
from support.masks import HEADS, Mask, Table, both, masks, shapes, states_of, where

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_device(program):
    """The program with its captured tensors where kernels run."""
    values = {
        n: torch.as_tensor(v, device=DEVICE) if isinstance(v, np.ndarray | torch.Tensor) else v
        for n, v in program.values.items()
    }
    return type(program)(program.kind, program.name, program.expr, values)


def states(plan):
    """Proven states of tiles, and the exact ones."""
    found = device_plan.states(plan, plan.mask.values, DEVICE, device_plan.launch_compiled)
    proven = found.cpu().numpy().copy()
    device_plan.refine(found, plan, plan.mask.values, device_plan.launch_compiled)
    return proven, found.cpu().numpy()


def states_of_table(plan, shape):
    """The states that the device's table says, [rows, inner]; runs are disjoint and ascending."""
    made = device_plan.make_table(plan, plan.mask.values, DEVICE, device_plan.launch_compiled)
    offsets, full_ends, starts, stops = (
        x.cpu().numpy() for x in (made.offsets, made.full_ends, made.starts, made.stops)
    )
    found = np.zeros(shape, np.int8)
    assert len(offsets) == len(found) + 1 and offsets[0] == 0
    for row in range(len(found)):
        for first, last, state in (
            (offsets[row], full_ends[row], 2),
            (full_ends[row], offsets[row + 1], 1),
        ):
            assert list(starts[first:last]) == sorted(starts[first:last])
            for run in range(first, last):
                assert starts[run] < stops[run]
                assert not found[row, starts[run] : stops[run]].any()
                found[row, starts[run] : stops[run]] = state
    return found


def check_tables(plan, expected):
    """Both tables of a plan against the states of its tiles [b, h, q tiles, kv tiles]."""
    lengths = plan.kv_len, plan.q_len
    turned = (plan, expected), (plan.transposed(), expected.swapaxes(2, 3))
    for (made, of_tiles), length, block in zip(turned, lengths, plan.tile_shape[::-1], strict=True):
        by_row = of_tiles.reshape(-1, of_tiles.shape[3]).copy()
        if length % block:
            # A kernel's full tiles look at no end of the axis that it goes along.
            by_row[:, -1] = np.minimum(by_row[:, -1], 1)
        np.testing.assert_array_equal(states_of_table(made, by_row.shape), by_row)


DOC = Table("doc", np.sort(np.random.default_rng(0).integers(0, 9, 256)))
BATCHED = Table("of_batch", np.stack([DOC.array // 2, DOC.array]))
WINDOW = Table("window", np.array([3, 50, 120]))
PER_HEAD = Table("window", WINDOW.array.astype(np.int64))
SEEN = Table("seen", np.arange(512).reshape(2, 256) % 200 != 7)

# Masks of which intervals say everything, where tiles are whole blocks of elements.
EXACT = {
    "causal": Mask(lambda b, h, q, kv: q >= kv),
    "window": Mask(lambda b, h, q, kv, w: both(q >= kv, q - kv < w), {"w": 40}),
    "chunks": Mask(lambda b, h, q, kv: q // 48 == kv // 48),
    "window of each head": Mask(
        lambda b, h, q, kv: both(q >= kv, q - kv < PER_HEAD[h]), {}, (PER_HEAD,)
    ),
    "documents": Mask(lambda b, h, q, kv: both(DOC[q] == DOC[kv], q >= kv), {}, (DOC,)),
    "documents of each batch": Mask(
        lambda b, h, q, kv: BATCHED[b, q] == BATCHED[b, kv], {}, (BATCHED,)
    ),
    "padding": Mask(lambda b, h, q, kv: SEEN[b, kv], {}, (SEEN,)),
    "one head is causal": Mask(lambda b, h, q, kv: where(h == 1, q >= kv, kv < 9)),
    "nothing": Mask(lambda b, h, q, kv: q < 0),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("q_len", "kv_len", "q_offset"), [(96, 96, 0), (80, 200, 64)])
def test_the_device_says_what_the_host_says(name, q_len, kv_len, q_offset):
    program = on_device(EXACT[name].program())
    options = {"batch": 2, "heads": HEADS, "tile": (32, 16), "q_offset": q_offset}
    plan = make_plan(program, q_len, kv_len, device=str(DEVICE), **options)
    host = make_plan(EXACT[name].program(), q_len, kv_len, **options)
    proven, found = states(plan)
    np.testing.assert_array_equal(proven, host.states())
    np.testing.assert_array_equal(found, host.states())
    check_tables(plan, found)
    np.testing.assert_array_equal(plan.to_dense(), host.to_dense())
    assert plan.pairs == host.pairs


def check(plan, dense):
    """Proofs are right and states exact, by brute force; the tables say the states.

    Args:
        dense: the mask pair by pair, on plain numbers.
    """
    proven, found = states(plan)
    truth = states_of(dense, plan.tile_shape)
    everywhere = np.broadcast_to(proven, truth.shape)
    np.testing.assert_array_equal(everywhere[everywhere != 1], truth[everywhere != 1])
    np.testing.assert_array_equal(np.broadcast_to(found, truth.shape), truth)
    check_tables(plan, found)


@given(masks(), shapes())
@settings(max_examples=25)
def test_any_mask_is_planned_exactly(mask, shape):
    lengths = shape.q_len, shape.kv_len
    options = {"tile": shape.tile, "q_offset": shape.q_offset, "device": str(DEVICE)}
    plan = make_plan(on_device(mask.program()), *lengths, batch=2, heads=HEADS, **options)
    check(plan, mask.dense(2, HEADS, *lengths, shape.q_offset))


LARGE = torch.arange(64) // 20 + 2**40
BYTES, SHORTS = (torch.arange(64) // 5 * 20 % 256).to(torch.uint8), torch.arange(-32, 32).short()
FLOATS = torch.sin(torch.arange(64.0) / 7)
HOLES = FLOATS.where(torch.arange(64) % 23 != 0, torch.nan).half()
PAIRS = torch.arange(48).reshape(6, 8) % 5
THIRDS = torch.arange(64) // 3
NO_WINDOW = 2**40

ODD = {
    "beyond 32 bits": lambda b, h, q, kv: LARGE[q] == LARGE[kv],
    "far beyond": lambda b, h, q, kv: LARGE[q] * 3 > LARGE[kv] * 3 + q,
    "no window": lambda b, h, q, kv: 0 <= q - kv < NO_WINDOW,
    "product": lambda b, h, q, kv: q * kv < 100,
    "bytes": lambda b, h, q, kv: BYTES[q] >= BYTES[kv],
    "shorts": lambda b, h, q, kv: SHORTS[q] + SHORTS[kv] > 3,
    "floats": lambda b, h, q, kv: FLOATS[q] + FLOATS[kv] > 0.5,
    "holes": lambda b, h, q, kv: HOLES[kv] < 0.25,
    "no holes": lambda b, h, q, kv: not HOLES[kv] >= 0.25,
    "float of an index": lambda b, h, q, kv: fx.maximum(1.0 * q, 20.0) > 0.5 * kv,
    "bits": lambda b, h, q, kv: (q & 15) >= kv % 16,
    "few rows": lambda b, h, q, kv: PAIRS[q // 12, kv // 8] > 2,
    "an index that is loaded": lambda b, h, q, kv: SHORTS[THIRDS[q]] < kv - 30,
}

# Not known of single pairs either: what is too large, NaN, or left out.
UNKNOWN = {"beyond 32 bits", "far beyond", "no window", "holes", "no holes", "bits"}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("tile", [(1, 1), (5, 7), (32, 48)])
def test_numbers_of_every_kind_are_planned_exactly(name, tile):
    function = ODD[name]
    # Tiles of one pair are many, and the interpreter looks at one after the other.
    q_len, kv_len, q_offset = (10, 52, 33) if tile == (1, 1) else (60, 52, 3)
    dense = np.array(
        [[bool(function(0, 0, q + q_offset, kv)) for kv in range(kv_len)] for q in range(q_len)]
    )
    program = bind.with_tensors(fx.mask_mod(function).program, torch.device("cpu"))
    plan = make_plan(
        on_device(program), q_len, kv_len, tile=tile, q_offset=q_offset, device=str(DEVICE)
    )
    check(plan, dense[None, None])
    if tile == (1, 1) and name not in UNKNOWN:
        np.testing.assert_array_equal(states(plan)[0], states_of(dense[None, None], tile))


@given(
    st.integers(1, 3),
    st.integers(1, 40 * ELEMENTS),
    st.randoms(use_true_random=False),
    st.booleans(),
)
@settings(max_examples=25)
def test_extremes_are_those_of_runs_of_blocks(rows, length, random, is_float):
    numbers = [[random.randint(-99, 99) for _ in range(length)] for _ in range(rows)]
    tensor = torch.tensor(numbers, dtype=torch.float64 if is_float else torch.int16, device=DEVICE)
    found = extremes(elements(tensor)).cpu()
    blocks = -(-length // ELEMENTS)
    levels = found[:-2].reshape(LEVELS + 1, 2, rows, blocks).tolist()
    for level, row, block in np.ndindex(LEVELS + 1, rows, blocks):
        first, stop = ELEMENTS * block, ELEMENTS * (block + (1 << level))
        run = numbers[row] if level == LEVELS else numbers[row][first:stop]
        greatest = -max(run) if is_float else ~max(run)
        assert [levels[level][side][row][block] for side in (0, 1)] == [min(run), greatest]
    everything = list(chain.from_iterable(numbers))
    greatest = -max(everything) if is_float else ~max(everything)
    assert found[-2:].tolist() == [min(everything), greatest]


@given(
    st.integers(1, 3),
    st.integers(1, 40 * ELEMENTS),
    st.randoms(use_true_random=False),
    st.booleans(),
)
@settings(max_examples=25)
def test_members_are_those_of_runs_of_blocks(rows, length, random, is_long):
    """Each element's hash is in the set of its block, and a set is the union of its blocks'."""
    numbers = [[random.randint(-99, 99) for _ in range(length)] for _ in range(rows)]
    dtype = torch.int64 if is_long else torch.int16
    found = members(elements(torch.tensor(numbers, dtype=dtype, device=DEVICE))).cpu()
    blocks = -(-length // ELEMENTS)
    levels = found.reshape(LEVELS + 1, rows, blocks, WORDS).tolist()
    alone = {n: members(torch.tensor([n], dtype=dtype))[:WORDS].tolist() for n in range(-99, 100)}
    for word in range(WORDS):
        assert len({words[word] for words in alone.values()}) > BITS // 2
    assert len(set(map(tuple, alone.values()))) == len(alone)
    for level, row, block in np.ndindex(LEVELS, rows, blocks):
        run = numbers[row][ELEMENTS * block : ELEMENTS * (block + (1 << level))]
        words = [reduce(or_, word) for word in zip(*(alone[n] for n in run), strict=True)]
        assert levels[level][row][block] == words
    assert set(np.ravel(levels[LEVELS])) == {-1}


def test_documents_in_random_order_are_proven_apart():
    """Ranges of ids overlap nearly everywhere; sets of ids do not."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(64))
    ids = order.repeat_interleave(48).int().to(DEVICE)
    plan = make_plan(
        fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv]).program,
        *(len(ids), len(ids)),
        tile=(64, 64),
        device=str(DEVICE),
    )
    proven, found = states(plan)
    apart = found == 0
    assert (proven[apart] == 0).mean() > 0.99
    host = make_plan(
        fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv]).program, *(len(ids),) * 2, tile=(64, 64)
    )
    np.testing.assert_array_equal(found, host.states())


def test_a_row_without_room_ends_in_a_partial_run(monkeypatch):
    monkeypatch.setattr(table, "MOST_RUNS_OF_ROW", 3)
    chosen = torch.tensor(
        [[1, 0, 1, 1, 0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 1, 0, 0, 0, 0]], device=DEVICE
    )
    blocks = (chosen > 0)[None, None]
    plan = fx.BlockPlan.from_blocks(blocks, tile=(4, 4), device=DEVICE)
    assert [list(row) for row in states_of_table(plan, (2, 10))] == [
        [2, 0, 2, 2, 0, 1, 1, 1, 1, 1],
        [0, 2, 0, 2, 0, 2, 0, 0, 0, 0],
    ]
    assert plan.nbytes == 4 * (2 * 2 + 1 + 2 * 2 * 3)
    shape = Shape(1, 1, 1, 8, 40)
    q, k, v = (x.to(DEVICE) for x in shape.tensors(torch.float32))
    call = partial(fx.attention, q, k, v, mask=plan, backend="triton")
    allowed = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)[0, 0].tolist()
    expected = oracle(*shape.tensors(), mask=lambda b, h, q, kv: allowed[q][kv])[0]
    assert_near(call().cpu(), expected, 1e-5)


@pytest.fixture
def count(monkeypatch):
    """Forget every plan, and list the tables that are made."""
    made = []
    original = device_plan.make_table

    def make_table(plan, *rest):
        made.append(plan)
        return original(plan, *rest)

    monkeypatch.setattr(device_plan, "make_table", make_table)
    bind._PLANS.clear()
    device_plan._TABLES.clear()
    yield made
    bind._PLANS.clear()
    device_plan._TABLES.clear()


@pytest.mark.parametrize(
    ("name", "tables"),
    # Whether a key is padding is loaded by each key: its queries are all of them, or none.
    [("documents", {"q", "kv"}), ("padding of each batch", {"q"})],
)
def test_attention_with_a_plan_of_the_device(name, tables, count):
    shape = Shape(2, 4, 2, 45, 64)
    inputs = [x.to(DEVICE).requires_grad_() for x in shape.tensors(torch.float32)]
    program = on_device(bind.with_tensors(fx.mask_mod(MASKS[name]).program, torch.device("cpu")))
    moved = fx.mod.from_program(program)
    plan = fx.plan(moved, 45, 64, batch=2, heads=4, tile=(16, 32), device=DEVICE)
    assert plan.kind == "device" and (plan.transposed().kind == "device") == ("kv" in tables)
    out = fx.attention(*inputs, mask=plan, backend="triton")
    d_out = torch.linspace(-1, 1, out.numel(), device=DEVICE).view_as(out)
    found = torch.autograd.grad(out, inputs, d_out)
    assert {p.outer for p in count} == tables and all(p.kind == "device" for p in count)
    exact = [x.requires_grad_() for x in shape.tensors()]
    expected, _ = oracle(*exact, mask=MASKS[name])
    assert_near(out.detach().cpu(), expected.detach(), 1e-5)
    gradients = torch.autograd.grad(expected, exact, d_out.cpu().double())
    for a, b in zip(found, gradients, strict=True):
        assert_near(a.cpu(), b, 1e-5)
    made = len(count)
    fx.attention(*inputs, mask=plan, backend="triton")
    assert len(count) == made


def test_while_a_graph_is_captured_nothing_is_remembered(count, monkeypatch):
    """Each kernel that is recorded has its table recorded with it, once."""
    monkeypatch.setattr(memory, "_is_fleeting", lambda tensor: True)
    ids = torch.arange(64, device=DEVICE) // 9
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    plan = fx.plan(mask, 33, 33, tile=(16, 16), device=DEVICE)
    monkeypatch.setattr(bind, "_gpu_of", lambda program: str(DEVICE))
    inputs = [x.to(DEVICE).requires_grad_() for x in Shape().tensors(torch.float32)]
    for _ in range(2):
        count.clear()
        out = fx.attention(*inputs, mask=plan, backend="triton")
        torch.autograd.grad(out.sum(), inputs)
        assert [p.outer for p in count] == ["q", "q", "kv"]
    assert len(bind._PLANS) == len(device_plan._TABLES) == 0


def test_a_change_in_place_makes_another_table(count):
    ids = torch.zeros(64, dtype=torch.int32, device=DEVICE)
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    plan = fx.plan(mask, 33, 33, tile=(16, 16), device=DEVICE)
    q, k, v = (x.to(DEVICE) for x in Shape().tensors(torch.float32))
    for cut in (0, 7, 20):
        ids[cut:] += 1
        values = ids.tolist()
        expected, _ = oracle(
            *Shape().tensors(), mask=lambda b, h, q, kv, values=values: values[q] == values[kv]
        )
        assert_near(fx.attention(q, k, v, mask=plan, backend="triton").cpu(), expected, 1e-5)
    assert len(count) == 3


def step(mask, *inputs):
    """Output and gradients of a call."""
    out = fx.attention(*inputs, mask=mask)
    return out, *torch.autograd.grad(out.float().square().sum(), inputs)


@pytest.mark.gpu
def test_a_step_with_other_documents_does_not_wait():
    inputs = [x.cuda().half().requires_grad_() for x in Shape(q_len=200, kv_len=200).tensors()]
    ids = torch.arange(200, device="cuda") // 7
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    step(mask, *inputs)
    blocks = torch.ones(1, 2, 2, 2, dtype=torch.bool, device="cuda")
    step(fx.BlockPlan.from_blocks(blocks, q_len=200, kv_len=200), *inputs)
    torch.cuda.synchronize()
    with warnings.catch_warnings(action="ignore"):  # it says that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        ids += 1
        step(mask, *inputs)
        step(fx.BlockPlan.from_blocks(~blocks, q_len=200, kv_len=200), *inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:The AccumulateGrad node")  # of the warm-up on a side stream
@pytest.mark.gpu
def test_a_cuda_graph_replays_with_the_documents_of_then():
    inputs = [x.cuda().half().requires_grad_() for x in Shape(q_len=300, kv_len=300).tensors()]
    ids = torch.arange(300, device="cuda") // 7
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(mask, *inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(mask, *inputs)
    for length in (150, 40):
        ids.copy_((torch.arange(300) * 7 % 300).cuda() // length)
        graph.replay()
        for a, b in zip(captured, step(mask, *inputs), strict=True):
            assert_near(a, b, 1e-3)
