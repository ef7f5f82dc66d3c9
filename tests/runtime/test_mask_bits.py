"""Bits of masked tiles against the mask on plain ints, and which calls read them.

The kernel that writes bits runs under Triton's interpreter, and on a GPU where there is one. The
kernel that reads them is Gluon, and needs a GPU: `tests/codegen/test_hopper.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.analysis import make_plan
from flexdsl.runtime import bind, device_plan, mask_bits
from flexdsl.runtime.run_table import table_of_kernel, to_device
from support.masks import HEADS, masks, shapes

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TILES = st.sampled_from([(32, 8), (32, 16), (64, 32)])


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
    yield mask_bits.with_bits(to_device(table_of_kernel(host), DEVICE), host, bound, DEVICE, launch)
    there = replace(plan, device=str(DEVICE), closed_form=None, table=None)
    made = device_plan.make_table(there, bound.mask_values, DEVICE, launch)
    yield mask_bits.with_bits(made, there, bound, DEVICE, launch)


def allowed_of(words, tile):
    """Tiles of words as bools [tiles, rows, keys], by what the layout says of one key."""
    words = words.cpu().reshape(-1, tile[0], 4)
    found = torch.zeros(len(words), *tile, dtype=torch.bool)
    for key in range(tile[1]):
        bit = key // 8 * 2 + key % 2
        found[:, :, key] = words[:, :, key % 8 // 2] >> bit & 1 == 1
    return found.numpy()


def check(plan, dense):
    """Each tile that a kernel masks has its bits, in the order in which the kernel comes to it.

    Args:
        dense: the mask pair by pair, on plain numbers: [batch, heads, q, kv].
    """
    (height, width), grid = plan.tile_shape, plan.scene.grid
    padded = np.zeros((*dense.shape[:3], plan.kv_tiles * width), bool)
    padded[..., : plan.kv_len] = dense
    for made in tables(plan):
        bits = allowed_of(made.mask_words, plan.tile_shape)
        offsets, full_ends, starts, stops, first_bits = (
            getattr(made, n).tolist()
            for n in ("offsets", "full_ends", "starts", "stops", "first_bits")
        )
        assert not bits[0].any() and bits[1].all()
        seen = set()
        for row in range(len(full_ends)):
            b, h = divmod(row // plan.q_tiles, grid.heads)
            rows = slice(row % plan.q_tiles * height, plan.q_len)
            runs = range(full_ends[row], offsets[row + 1])
            tiles = [t for run in runs for t in range(starts[run], stops[run])]
            if not tiles:
                assert first_bits[row] == int(offsets[row] < offsets[row + 1])
            for at, tile in enumerate(tiles, first_bits[row]):
                wanted = padded[b, h, rows, tile * width : (tile + 1) * width][:height]
                np.testing.assert_array_equal(bits[at, : len(wanted)], wanted)
                seen.add(at)
        assert len(seen) == sum(
            stops[run] - starts[run]
            for row in range(len(full_ends))
            for run in range(full_ends[row], offsets[row + 1])
        )


@given(masks(), shapes(), TILES)
@settings(max_examples=25)
def test_bits_of_any_mask(mask, shape, tile):
    lengths = shape.q_len, shape.kv_len
    options = {"tile": tile, "q_offset": shape.q_offset}
    plan = make_plan(mask.program(), *lengths, batch=2, heads=HEADS, **options)
    check(plan, mask.dense(2, HEADS, *lengths, shape.q_offset))


def test_bits_of_rows_with_many_masked_tiles():
    """More masked tiles than parts of a row, in several runs, with full tiles between them."""
    function = fx.mask_mod(lambda b, h, q, kv: (kv // 24 % 3 == 1 or (q + kv) % 7 == 2) and kv > 9)
    plan = make_plan(function.program, 70, 331, tile=(32, 8), q_offset=3)
    dense = np.array([[bool(function(0, 0, q + 3, kv)) for kv in range(331)] for q in range(70)])
    assert plan.full_tiles > 0 and np.diff(plan.tabulated.table.offsets).min() > 9
    check(plan, dense[None, None])


def test_bits_are_made_once_while_captured_tensors_stay():
    ids = torch.arange(64, device=DEVICE) // 9
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    host = make_plan(mask.program, 64, 64, tile=(32, 16))
    table, bound = to_device(table_of_kernel(host.tabulated), DEVICE), bound_of(host)
    options = table, host.tabulated, bound, DEVICE, device_plan.launch_compiled
    made = mask_bits.with_bits(*options)
    assert mask_bits.with_bits(*options) is made
    ids += 1
    assert mask_bits.with_bits(*options) is not made
