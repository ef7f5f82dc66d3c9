"""Tables that the device makes for consumers that skip tiles, against the mask pair by pair.

Kernels run under Triton's interpreter, and on a GPU where there is one.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import make_plan, table
from flexdsl.runtime import device_plan, part_tiles
from flexdsl.runtime.run_table import DeviceTable
from support.masks import HEADS, Mask, Table, both, either, masks, shapes
from tests.runtime.test_device_plan import DEVICE, on_device
from tests.runtime.test_mask_bits import bound_of

FULL, MASKED = 1, 2


def made_table(plan, parts):
    values, launch = plan.mask.values, device_plan.launch_compiled
    return device_plan.make_table(plan, values, DEVICE, launch, parts=parts)


def rows_of_table(plan, parts):
    """The runs of each row as the device has them: (start, stop, kind), full ones first."""
    made = made_table(plan, parts)
    offsets, full_ends, starts, stops, kinds = (
        x.tolist() for x in (made.offsets, made.full_ends, made.starts, made.stops, made.kinds)
    )
    for row, end in enumerate(full_ends):
        first, last = offsets[row], offsets[row + 1]
        assert all(kinds[run] & 3 == (FULL if run < end else MASKED) for run in range(first, last))
        yield [(starts[run], stops[run], kinds[run]) for run in range(first, last)]


def wanted_runs(rows, tile, parts, most):
    """The runs of a query tile, from its pairs [its rows, keys].

    Args:
        most: runs of a row; the last one that has room takes all tiles that are left.
    """
    (height, width), kinds = tile, []
    for first in range(0, rows.shape[1], width):
        columns = rows[:, first : first + width]
        own = np.split(columns, range(height // parts, height, height // parts))
        groups = sum(1 << g for g in range(parts) if own[g].any())
        is_cut = columns.shape[1] < width  # full tiles look at no end of the keys
        is_full = not is_cut and all(x.all() for x in own if x.any())
        kinds.append(groups << 2 | (FULL if is_full else MASKED) if groups else 0)
    runs, at = [], 0
    for kind, some in groupby(kinds):
        start, at = at, at + len(list(some))
        runs += [(start, at, kind)] if kind else []
    if len(runs) > most:
        everyone = (1 << parts) - 1
        runs[most - 1 :] = [(runs[most - 1][0], len(kinds), everyone << 2 | MASKED)]
    return sorted(runs, key=lambda run: run[2] & 3)


def check(plan, dense, parts, most=table.MOST_RUNS_OF_ROW):
    """Every row of the plan's table.

    Args:
        dense: the mask pair by pair, on plain numbers: [batch, heads, q, kv].
    """
    height, found = plan.tile_shape[0], list(rows_of_table(plan, parts))
    assert len(found) == plan.scene.grid.batch * plan.scene.grid.heads * plan.q_tiles
    for row, runs in enumerate(found):
        b, h = divmod(row // plan.q_tiles, plan.scene.grid.heads)
        first = row % plan.q_tiles * height
        rows = dense[b, h, first : first + height]
        assert runs == wanted_runs(rows, plan.tile_shape, parts, most)


RNG = np.random.default_rng(0)
BY_HEAD = RNG.random((HEADS, 9, 9)) < 0.4
BY_BATCH = RNG.random((2, HEADS, 9, 9)) < 0.4


def by_blocks(allowed, q_len, kv_len, q_offset):
    """The pairs of a table of blocks of 64, by repeating its elements."""
    rows = allowed.repeat(64, -2)[..., q_offset : q_offset + q_len, :]
    return rows.repeat(64, -1)[..., :kv_len]


@pytest.mark.parametrize(
    ("q_len", "kv_len", "q_offset"), [(384, 384, 0), (330, 340, 64), (200, 500, 0), (64, 9, 128)]
)
@pytest.mark.parametrize("name", ["plain", "of each head", "of each batch", "causal"])
def test_tables_of_blocks(name, q_len, kv_len, q_offset):
    """Query tiles with an odd number of parts of 64 rows, and ends within a part, among them."""
    allowed = {"plain": BY_HEAD[0], "of each batch": BY_BATCH}.get(name, BY_HEAD)
    mask, tile = stdlib.block_table(torch.from_numpy(allowed).to(DEVICE), 64), (128, 64)
    dense = by_blocks(allowed, q_len, kv_len, q_offset)
    if name == "causal":
        mask = mask & stdlib.causal()
        dense = dense & np.tri(q_len, kv_len, q_offset, bool)
    dense = np.broadcast_to(dense, (2, HEADS, q_len, kv_len))
    options = {"batch": 2, "heads": HEADS, "tile": tile, "q_offset": q_offset}
    plan = make_plan(mask.program, q_len, kv_len, device=str(DEVICE), **options)
    check(plan, dense, 2)
    is_full = {kind & 3 == FULL for runs in rows_of_table(plan, 2) for *_, kind in runs}
    assert False in is_full or (name != "causal" and kv_len % 64 == 0)
    assert True in is_full or kv_len < 64


@pytest.mark.parametrize("most", [1, 2, 3])
def test_rows_of_blocks_without_room(most, monkeypatch):
    """Most of them have a run of one consumer where the last one begins that there is room for."""
    monkeypatch.setattr(table, "MOST_RUNS_OF_ROW", most)
    mask = stdlib.block_table(torch.from_numpy(BY_HEAD).to(DEVICE), 64)
    options = {"heads": HEADS, "tile": (128, 64), "device": str(DEVICE)}
    plan = make_plan(mask.program, 500, 500, **options)
    check(plan, by_blocks(BY_HEAD, 500, 500, 0)[None], 2, most)


@st.composite
def block_masks(draw):
    """A table of blocks of 8 by 4 for each head, and beside it whatever else."""
    flags = draw(st.lists(st.booleans(), min_size=HEADS * 72, max_size=HEADS * 72))
    chosen = Table("chosen", np.array(flags).reshape(HEADS, 6, 12))
    n, other = draw(st.integers(-9, 40)), draw(masks(1))

    def is_chosen(b, h, q, kv):
        return chosen[h, q // 8, kv // 4]

    beside = [
        lambda b, h, q, kv: q + n >= kv,
        lambda b, h, q, kv: kv < n,
        lambda b, h, q, kv: chosen[0, q // 8, kv // 8],
        other.function,
    ]
    join, function = draw(st.sampled_from([both, either])), draw(st.sampled_from(beside))
    joined = draw(st.sampled_from([is_chosen, lambda *at: join(is_chosen(*at), function(*at))]))
    return Mask(joined, {}, (chosen, *other.tables))


# Tiles and their parts, of which each has whole rows.
PARTS = [((16, 4), 2), ((16, 7), 2), ((6, 5), 2), ((24, 8), 3), ((9, 4), 3)]


@given(
    block_masks() | masks(),
    shapes(),
    st.sampled_from(PARTS),
    st.sampled_from([table.MOST_RUNS_OF_ROW, 1, 2, 3]),
)
@settings(max_examples=15)
def test_tables_of_any_mask(mask, shape, tile_and_parts, most):
    """With room for few runs, too: rows end in a masked run for everyone then."""
    tile, parts = tile_and_parts
    lengths = shape.q_len, shape.kv_len
    options = {"tile": tile, "q_offset": shape.q_offset, "device": str(DEVICE)}
    plan = make_plan(on_device(mask.program()), *lengths, batch=2, heads=HEADS, **options)
    dense = mask.dense(2, HEADS, *lengths, shape.q_offset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "MOST_RUNS_OF_ROW", most)
        check(plan, dense, parts, most)


def test_a_row_without_room_ends_in_a_masked_run_of_everyone(monkeypatch):
    monkeypatch.setattr(table, "MOST_RUNS_OF_ROW", 3)
    allowed = torch.tensor([[1, 0, 0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1, 0, 0]], device=DEVICE) > 0
    mask = stdlib.block_table(allowed, (16, 4))
    plan = make_plan(mask.program, 32, 32, tile=(32, 4), device=str(DEVICE))
    (runs,) = rows_of_table(plan, 2)
    # Both consumers', the last one's, and the first one's: the next one has no room.
    both_parts, last = 3 << 2, 2 << 2
    assert runs == [(0, 1, both_parts | FULL), (1, 3, last | FULL), (4, 8, both_parts | MASKED)]


STATES = st.integers(1, 4).flatmap(
    lambda inner: st.lists(
        st.lists(st.integers(0, 2), min_size=inner, max_size=inner), min_size=1, max_size=7
    )
)


@given(STATES, st.sampled_from([1, 2, 3]))
def test_states_of_parts_are_joined(rows, parts):
    """Bit 2 + g: part g has a pair; below, 1 where some part is partial, else 2."""
    heads = [rows, rows[::-1]]
    found = part_tiles.joined(torch.tensor(heads, dtype=torch.int8), parts)
    assert found.dtype is torch.int8
    for states, of_head in zip(heads, found.tolist(), strict=True):
        tiles = (states[first : first + parts] for first in range(0, len(states), parts))
        assert of_head == [[joined(column) for column in zip(*t, strict=True)] for t in tiles]


def joined(states):
    """The state of a tile by those of its parts."""
    groups = sum(4 << g for g, state in enumerate(states) if state)
    return groups and groups + (1 if 1 in states else 2)


def test_room_without_runs_may_hold_anything():
    """There is room for more runs than a row has; nobody has written there."""
    states = torch.tensor([[[[6, 0, 13], [0, 0, 0], [10, 10, 14]]]], dtype=torch.int8)
    lowest, greatest = torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max
    given = {
        "offsets": [0, 2, 2, 4],
        "full_ends": [1, 2, 4],
        "starts": [0, 2, 0, 2, lowest, greatest, -1, 3],
        "stops": [1, 3, 2, 3, greatest, lowest, 0, 0],
        "order": [0, 2, 1],
    }
    arrays = {n: torch.tensor(x, dtype=torch.int32) for n, x in given.items()}
    nowhere = torch.full((3,), 3, dtype=torch.int32)
    made = part_tiles.with_kinds(DeviceTable(**arrays), states, nowhere, 2)
    wanted = [1 << 2 | FULL, 3 << 2 | MASKED, 2 << 2 | FULL, 3 << 2 | FULL]
    assert made.kinds[:4].tolist() == wanted and len(made.kinds) == 8
    assert all(getattr(made, n).tolist() == x for n, x in given.items())


def test_a_plan_has_a_table_of_each_kind_once():
    mask = stdlib.block_table(torch.from_numpy(BY_HEAD).to(DEVICE), 64)
    plan = fx.plan(mask, 300, 300, heads=HEADS, tile=(128, 64), device=DEVICE)
    bound, launch = bound_of(plan), device_plan.launch_compiled
    plain, of_parts = (device_plan.find_table(plan, bound, DEVICE, launch, n) for n in (1, 2))
    assert plain.kinds is None and of_parts.kinds is not None
    assert device_plan.find_table(plan, bound, DEVICE, launch) is plain
    assert device_plan.find_table(plan, bound, DEVICE, launch, 2) is of_parts
