"""Bits of masked tiles against the mask on plain ints, and which calls read them.

The kernels that write bits run under Triton's interpreter, and on a GPU where there is one. Those
that read them are Gluon, and need a GPU: `tests/codegen/test_hopper_bits.py`. What they read is in
`tests/codegen/test_words.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import make_plan
from flexdsl.codegen import Language, Phase
from flexdsl.codegen.pair_work import pair_work
from flexdsl.ir import Kind
from flexdsl.runtime import bind, device_plan, mask_bits
from flexdsl.runtime.call import Call, value_of
from flexdsl.runtime.call_table import table_of
from flexdsl.runtime.explain import of_gpu
from flexdsl.runtime.launch import candidates, kernel_of
from flexdsl.runtime.run_table import table_of_kernel, to_device
from support.masks import HEADS, masks, shapes

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TILES = st.sampled_from([(32, 32), (32, 64), (64, 32)])


def bound_of(plan):
    """A call's mask with its values where kernels run."""
    values = {
        n: torch.as_tensor(v, device=DEVICE) if isinstance(v, np.ndarray | torch.Tensor) else v
        for n, v in plan.mask.values.items()
    }
    program = replace(plan.mask, values=values)
    lengths = bind.Lengths(plan.batch, plan.heads, plan.q_len, plan.kv_len, plan.q_offset)
    return bind.Bound(program, None, values, {}, None, lengths, frozenset())


def tables(plan):
    """The plan's table with bits: uploaded from the host, and made on the device."""
    launch = device_plan.launch_compiled
    host, bound = plan.tabulated, bound_of(plan)
    runs = to_device(table_of_kernel(host), host.outer_tiles, DEVICE)
    yield mask_bits.with_bits(runs, host, bound, DEVICE, launch)
    there = replace(plan, device=str(DEVICE), closed_form=None, table=None)
    made = device_plan.make_table(there, bound.mask_values, DEVICE, launch)
    yield mask_bits.with_bits(made, there, bound, DEVICE, launch)


def allowed_of(words, tile):
    """Tiles of words as bools [tiles, outer, inner], each bit by the thread that reads it.

    Of a product [64, inner] a thread has inner / 2 numbers. Which ones is in the PTX ISA, section
    "Register Fragments and Shared Memory Matrix Layouts" of wgmma, under accumulator D.
    """
    outer, inner = tile
    of_thread = -(-inner // 64)
    words = words.cpu().reshape(-1, outer // 16, 32, of_thread).numpy()
    found = np.zeros((len(words), *tile), bool)
    for lane in range(32):
        for register in range(inner // 2):
            row = lane // 4 + register // 2 % 2 * 8
            column = register // 4 * 8 + lane % 4 * 2 + register % 2
            word = words[:, :, lane, register // 32]
            found[:, row::16, column] = word >> register % 32 & 1 == 1
    return found


def check(plan, dense):
    """Each tile that a kernel masks has its bits, in the order in which the kernel comes to it.

    Args:
        plan: of query tiles or of key tiles.
        dense: the mask pair by pair, on plain numbers: [batch, heads, q, kv].
    """
    grown = [-size % block for size, block in zip(dense.shape[2:], plan.tile_shape, strict=True)]
    padded = np.pad(dense, [(0, 0), (0, 0), (0, grown[0]), (0, grown[1])])
    for made in tables(plan):
        if plan.outer == "q":
            check_table(made, padded, plan.tile_shape, plan.scene.grid.heads, plan.q_len)
        else:  # Keys past the end are masked in every tile.
            turned = padded.swapaxes(2, 3), plan.tile_shape[::-1]
            check_table(made, *turned, plan.scene.grid.heads, turned[0].shape[2])


def check_table(made, dense, tile, heads, end):
    """A table with bits against the mask [batch, heads, outer, inner], of whole tiles.

    Args:
        end: of the outer positions that are looked at in full tiles.
    """
    (height, width), rows_of_head = tile, dense.shape[2] // tile[0]
    bits = allowed_of(made.mask_words, tile)
    offsets, full_ends, starts, stops, first_bits = (
        getattr(made, n).tolist() for n in ("offsets", "full_ends", "starts", "stops", "first_bits")
    )
    assert not bits[0].any() and bits[1].all()
    seen = set()
    for row in range(len(full_ends)):
        b, h = divmod(row // rows_of_head, heads)
        first = row % rows_of_head * height
        by_tile = dense[b, h, first : first + height].reshape(height, -1, width).swapaxes(0, 1)
        full, masked = (
            [t for run in range(*ends) for t in range(starts[run], stops[run])]
            for ends in ((offsets[row], full_ends[row]), (full_ends[row], offsets[row + 1]))
        )
        assert by_tile[full, : end - first].all()
        if not masked:
            assert first_bits[row] == int(bool(full))
        for at, inner in enumerate(masked, first_bits[row]):
            np.testing.assert_array_equal(bits[at], by_tile[inner])
            seen.add(at)
        rest = np.delete(by_tile, [*full, *masked], 0)
        assert not rest.any()
    masked_runs = [r for row, end in enumerate(full_ends) for r in range(end, offsets[row + 1])]
    assert len(seen) == sum(stops[run] - starts[run] for run in masked_runs)


@given(masks(), shapes(), TILES)
@settings(max_examples=25)
def test_bits_of_any_mask(mask, shape, tile):
    lengths = shape.q_len, shape.kv_len
    options = {"tile": tile, "q_offset": shape.q_offset}
    plan = make_plan(mask.program(), *lengths, batch=2, heads=HEADS, **options)
    dense = mask.dense(2, HEADS, *lengths, shape.q_offset)
    check(plan, dense)
    check(plan.transposed(), dense)


def test_bits_of_rows_with_many_masked_tiles():
    """More masked tiles than parts of a row, in several runs, with full tiles between them."""
    function = fx.mask_mod(lambda b, h, q, kv: (kv // 64 % 2 == 1 or (q + kv) % 7 == 2) and kv > 9)
    plan = make_plan(function.program, 70, 811, tile=(32, 32), q_offset=3)
    dense = np.array([[bool(function(0, 0, q + 3, kv)) for kv in range(811)] for q in range(70)])
    assert plan.full_tiles > 0 and np.diff(plan.tabulated.table.offsets).min() > 9
    check(plan, dense[None, None])
    check(plan.transposed(), dense[None, None])


@pytest.mark.parametrize(
    ("tile", "outer"),
    [
        ((128, 64), "q"),
        ((128, 128), "q"),
        ((192, 128), "q"),
        ((64, 64), "kv"),
        ((64, 128), "kv"),
        ((128, 128), "kv"),
    ],
)
def test_bits_of_the_tiles_of_kernels(tile, outer):
    """One word of a thread and two, with all 32 bits, the sign among them."""
    function = fx.mask_mod(lambda b, h, q, kv: (q * 5 + kv * kv) % 11 > 4 or kv % 8 == 7)
    plan = make_plan(function.program, 70, 150, tile=tile)
    dense = np.array([[bool(function(0, 0, q, kv)) for kv in range(150)] for q in range(70)])
    check(plan if outer == "q" else plan.transposed(), dense[None, None])


def test_bits_are_made_once_while_captured_tensors_stay():
    ids = torch.arange(64, device=DEVICE) // 9
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    host = make_plan(mask.program, 64, 64, tile=(32, 16))
    table = to_device(table_of_kernel(host.tabulated), host.outer_tiles, DEVICE)
    bound = bound_of(host)
    options = table, host.tabulated, bound, DEVICE, device_plan.launch_compiled
    made = mask_bits.with_bits(*options)
    assert mask_bits.with_bits(*options) is made
    ids += 1
    assert mask_bits.with_bits(*options) is not made


def explained(mask, gpu=90, length=600, dtype=torch.float16, heads=2, dim=64):
    """What `explain` says of a forward and of a backward pass on a GPU of that capability."""
    q, k, v = (torch.randn(1, heads, length, dim, dtype=dtype) for _ in range(3))
    lengths = bind.lengths_of(q, k, 0)
    reading = bind.read(bind.source_of(mask, Kind.MASK), None, lengths, q.device)
    bound = replace(bind.bind(reading.mask, None, lengths, (0, 0)), plan=reading.plan)
    return "\n".join(of_gpu("auto", gpu, bound, 0.1, q, k, v)).split("\nbackward")


OWN = torch.arange(600) // 9 % 5
COSTLY = {
    "table": stdlib.neighborhood((24, 25), 7),
    "numbers of a list": fx.mask_mod(lambda b, h, q, kv: OWN[q] == OWN[kv] and (q + kv) % 3 > 0),
    "closed form of masked tiles": stdlib.dilated_window(100, 3),
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_masks_are_read_as_bits_on_hopper(name):
    bits = "mask is read as bits, which are written once for the plan: 0.0[345] MiB"
    for text in explained(COSTLY[name]):
        assert re.search(bits, text) and "plan table" in text and "has no mask" not in text
    for other in (
        explained(COSTLY[name], gpu=80),
        explained(COSTLY[name], gpu=90, dtype=torch.float32),
    ):
        assert "read as bits" not in "".join(other)


OF_ROWS = "its masked tiles are masked by bits made of the ends of their rows"


@pytest.mark.parametrize(
    ("mask", "length"),
    [
        (stdlib.causal(), 600),
        (stdlib.sliding_window(64), 600),
        (stdlib.draft_blocks(256, 16), 512),
    ],
)
def test_closed_forms_are_masked_by_the_ends_of_rows_on_hopper(mask, length):
    for text in explained(mask, length=length):
        assert OF_ROWS in text and "read as bits" not in text


def test_tiles_that_lie_apart_are_in_a_table_on_hopper():
    """Though most have no mask: a kernel that finds them by a formula would mask them all."""
    mask = stdlib.strided_heads(128, 1, 4, 4)
    plan = fx.plan(mask, 4096, 4096, heads=4)
    assert plan.closed_form is not None and 2 * plan.full_tiles > plan.live_tiles
    forward, _ = explained(mask, length=4096, heads=4)
    assert "plan table" in forward and "its mask is read as bits" in forward


def test_a_cheap_mask_that_leaves_gaps_is_evaluated_on_hopper():
    """Of queries for each key it leaves none."""
    forward, backward = explained(fx.mask_mod(lambda b, h, q, kv: kv % 4 == 0))
    assert "its mask is evaluated in every masked tile: it takes few instructions" in forward
    assert OF_ROWS in backward


def test_a_mask_may_be_read_as_bits_in_one_pass_alone():
    """The remainder is of the inner positions of the backward pass."""
    forward, backward = explained(fx.mask_mod(lambda b, h, q, kv: q % 6 * 90 <= kv))
    assert OF_ROWS in forward
    assert "its mask is read as bits" in backward


def test_bits_have_a_limit(monkeypatch):
    monkeypatch.setattr(mask_bits, "MOST_MIB", 0)
    for text in explained(COSTLY["table"]):
        assert "in every masked tile: its bits would take 0.03 MiB, and 0 MiB is the most" in text
    # A table that is not needed is not taken.
    for text in explained(COSTLY["closed form of masked tiles"]):
        assert "plan closed-form" in text and "and 0 MiB is the most" in text


def test_a_closed_form_of_many_tiles_stays_one(monkeypatch):
    """Tiles of 128 x 128 in every direction: 25 of the first length, 36 of the second."""
    costly = COSTLY["closed form of masked tiles"]
    monkeypatch.setattr(mask_bits, "MOST_TILES", 25)
    for text in explained(costly):
        assert "plan table" in text
    for text in explained(costly, length=641):
        assert "plan closed-form" in text and "takes long to make of 36 tiles" in text


@pytest.mark.parametrize(
    ("mask", "along_keys", "along_queries"),
    [
        ("q >= kv", 1, 1),
        ("q >= kv and q - kv < 64", 2, 2),
        # Of the inner one a shift and a mask for every two pairs, of the pair two comparisons.
        ("q // 8 == kv // 8 and q % 8 == kv % 8", 3, 3),
        ("(q - kv) % 3 == 0", 8, 8),
        # A remainder by 6 for every two pairs, if it is that of the inner one.
        ("q % 6 == kv", 1, 4),
        ("q == kv % 6", 4, 1),
    ],
)
def test_the_work_of_a_pair(mask, along_keys, along_queries):
    expr = fx.parse(f"mask m() = {mask}").expr
    assert (pair_work(expr, "kv"), pair_work(expr, "q")) == (along_keys, along_queries)


def test_a_closed_form_of_other_tiles_becomes_a_table_of_the_kernel_s():
    given = fx.plan(COSTLY["closed form of masked tiles"], 600, 600, tile=(64, 32))
    for text in explained(given):
        assert "plan table, 52.0% of 128 x 128 tiles live" in text
        assert "mask is read as bits" in text


# What a launch of the backward kernel is told of its heads.
SIZES = {"members": 1, "member": 0, "first_head": 0}
SIZES |= {"result_heads": 2, "part_heads": 2, "left_tiles": 5}


@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.BACKWARD])
def test_the_kernel_that_reads_bits_is_the_same_for_all_masks_and_gets_them(phase):
    digests = set()
    for mask in COSTLY.values():
        q, k, v = (torch.randn(1, 2, 600, 64, dtype=torch.float16, device=DEVICE) for _ in range(3))
        lengths = bind.lengths_of(q, k, 0)
        reading = bind.read(bind.source_of(mask, Kind.MASK), None, lengths, DEVICE)
        bound = bind.bind(reading.mask, None, lengths, (0, 0))
        tensors = {"query": q, "key": k, "value": v, "out": q}
        tensors |= {f"d_{n}": x for n, x in tensors.items()}
        rows = dict.fromkeys(("lse", "lse_log2", "delta"), q[..., 0].float())
        sums = dict.fromkeys(("next_work", "left", "right"), torch.zeros(1, device=DEVICE))
        call = Call(bound, 0.1, tensors, rows, sums, hopper=True, sizes=SIZES)
        config = candidates(phase, call, 90)[0]
        plan = call.plan(phase, config)
        kernel = kernel_of(phase, Language.GLUON, call.spec(phase, plan, config))
        digests.add(kernel.digest)
        table = table_of(kernel.arguments, plan, call, device_plan.launch_compiled)
        values = {a.name: value_of(a, call, plan, table, config) for a in kernel.arguments}
        words, first_bits = values["mask_words"], values["first_bits"]
        assert words.dtype == first_bits.dtype == torch.int32 and len(first_bits) == plan.q_tiles
        assert words.numel() % (128 * 4) == 0 and 4 * words.numel() == mask_bits.bits_nbytes(plan)
        allowed = allowed_of(words, (128, 128))[2 : 2 + plan.live_tiles // 2]
        assert allowed[:, :88].sum() > 0 and allowed.any((1, 2)).all()
    assert len(digests) == 1
