"""How exact plans are, and how little they look at: the stdlib at several tiles, and hard masks.

EMPTY and FULL are right, no PARTIAL tile is really empty or full, and what is proven is not
evaluated. The oracle is the user's function on plain ints.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import BlockPlan, join, make_plan, subdivide, toeplitz
from flexdsl.analysis.closed_runs import Ends
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.ranges import FEW, RangeTable
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.subdivide import map_tiles, pairs_of
from flexdsl.analysis.table import RunTable, make_table
from flexdsl.analysis.transpose import transpose
from flexdsl.analysis.values import bind
from flexdsl.errors import CostWarning
from support.masks import Mask, Table, both, either, states_of
from support.plans import as_table
from tests.stdlib.samples import BATCH, HEADS
from tests.stdlib.samples import MASKS as SAMPLES

LENGTHS = (150, 190)
IDS = np.repeat(np.arange(7), [20, 31, 5, 60, 1, 40, 33])
STDLIB: dict[str, fx.Mod] = {
    "causal": stdlib.causal(),
    "causal_bottom_right": stdlib.causal_bottom_right(*LENGTHS),
    "sliding_window": stdlib.sliding_window(50),
    "attention_sink": stdlib.attention_sink(5, 40),
    "prefix_lm": stdlib.prefix_lm(37),
    "document": stdlib.document(IDS),
    "document_causal": stdlib.document_causal(IDS),
    "document within": stdlib.document(IDS, within=stdlib.prefix_lm(3)),
    "document & window": stdlib.document(IDS) & stdlib.sliding_window(9),
    "sink | prefix": stdlib.attention_sink(5, 40) | stdlib.prefix_lm(37),
    "not a window": ~stdlib.sliding_window(50),
}
TILES = [(16, 16), (32, 48), (64, 32), (128, 128), (1, 64), (48, 1)]


def dense_of(mask: fx.Mod, q_len: int, kv_len: int) -> Any:
    """Brute force on ints: bool [1, 1, q_len, kv_len]."""
    rows = [[bool(mask(0, 0, q, kv)) for kv in range(kv_len)] for q in range(q_len)]
    return np.array(rows)[None, None]


@pytest.mark.parametrize("name", STDLIB)
def test_no_tile_of_the_stdlib_is_less_than_exact(name: str) -> None:
    dense = dense_of(STDLIB[name], *LENGTHS)
    for tile in TILES:
        states = states_of(dense, tile)
        plan = fx.plan(STDLIB[name], *LENGTHS, tile=tile)
        for made in (plan, plan.transposed(), as_table(plan), as_table(plan.transposed())):
            np.testing.assert_array_equal(made.to_dense(), states)


@pytest.mark.parametrize("name", SAMPLES)
def test_no_tile_of_any_mask_of_the_library_is_less_than_exact(name: str) -> None:
    sample = SAMPLES[name]
    mask, sizes = sample.make(), (sample.q_len, sample.kv_len)
    axes = {"batch": BATCH, "heads": HEADS}
    dense = np.zeros((BATCH, HEADS, *sizes), bool)
    for pair in np.ndindex(*dense.shape):
        dense[pair] = bool(mask(*pair))
    for tile in [(8, 8), (16, 4), (64, 64)]:
        states = states_of(dense, tile)
        plan = fx.plan(mask, *sizes, **axes, tile=tile)
        for made in (plan, plan.transposed(), as_table(plan)):
            np.testing.assert_array_equal(made.to_dense(), states)


START = np.concatenate([[0], np.cumsum(np.bincount(IDS))])[IDS]
END = np.cumsum(np.bincount(IDS))[IDS]
STARTS, ENDS = Table("start", START), Table("end", END)
BY_ROWS: dict[str, Mask] = {
    "causal documents by their starts": Mask(
        lambda b, h, q, kv: both(kv >= STARTS[q], kv <= q), {}, (STARTS,)
    ),
    "documents by start and end": Mask(
        lambda b, h, q, kv: both(STARTS[q] <= kv, kv < ENDS[q]), {}, (STARTS, ENDS)
    ),
    "documents with sinks": Mask(
        lambda b, h, q, kv: both(kv <= q, either(kv < 3, kv >= STARTS[q])), {}, (STARTS,)
    ),
    "every third row": Mask(lambda b, h, q, kv: both(q % 3 == 0, kv <= q)),
    "up and down": Mask(lambda b, h, q, kv: kv < abs(q - 60) + 5),
}


@pytest.mark.parametrize("name", BY_ROWS)
def test_bounds_by_rows(name: str) -> None:
    mask = BY_ROWS[name]
    dense = mask.dense(1, 1, 150, 160)
    for tile in [(16, 16), (32, 48), (64, 32)]:
        plan = make_plan(mask.program(), 150, 160, tile=tile)
        form = plan.closed_form
        assert form is not None and any(i.by_rows for i in form.intervals)
        np.testing.assert_array_equal(plan.to_dense(), states_of(dense, tile))
        assert plan.pairs == dense.sum()


@given(st.lists(st.integers(0, 60), min_size=40, max_size=40), st.integers(1, 9))
def test_bounds_by_rows_are_right_whatever_the_tensor_comes_to_hold(
    values: list[int], tile: int
) -> None:
    """As when a captured graph runs again: the closed form is kept, the tensor is another one."""
    sorted_ = Table("start", np.arange(40))
    mask = Mask(lambda b, h, q, kv: both(sorted_[q] <= kv, kv < 50), {}, (sorted_,))
    plan = make_plan(mask.program(), 40, 60, tile=(8, tile))
    assert plan.closed_form is not None
    later = bind({"start": np.array(values)}, plan.scene.expr)
    ends = Ends(plan.closed_form, plan.scene.grid, later)
    dense = (np.array(values)[:, None] <= np.arange(60)) & (np.arange(60) < 50)
    states = states_of(dense[None, None], (8, tile))[0, 0]
    live, full = np.zeros(states.shape, bool), np.zeros(states.shape, bool)
    of_live, of_full = ends.tiles(np.arange(ends.rows))
    for i, ((start, stop), (first, last)) in enumerate(
        zip(zip(*of_live, strict=True), zip(*of_full, strict=True), strict=True)
    ):
        live[i, start[0] : stop[0]] = True
        full[i, first[0] : last[0]] = True
    assert (live | (states == 0)).all(), "a tile with an allowed pair would be left out"
    assert (~full | (states == 2)).all(), "a tile with an excluded pair would lose its mask"


def test_rows_that_leave_gaps_are_a_table() -> None:
    spread = Table("start", np.arange(40) * 37 % 190)
    mask = Mask(lambda b, h, q, kv: both(spread[q] <= kv, kv < spread[q] + 2), {}, (spread,))
    plan = make_plan(mask.program(), 40, 200, tile=(8, 8))
    assert plan.kind == "table" and plan.why_table is not None
    assert "too far apart" in plan.why_table.reason
    np.testing.assert_array_equal(plan.to_dense(), states_of(mask.dense(1, 1, 40, 200), (8, 8)))


def test_only_tiles_that_no_proof_decides_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    doc = np.repeat(np.arange(40), 13)
    mask = fx.mask_mod(lambda b, h, q, kv: doc[q] == doc[kv] and q >= kv)
    plan = make_plan(mask.program, 500, 500, tile=(16, 16))
    scene, grid = plan.scene, plan.scene.grid
    unknown = np.zeros((grid.q_tiles, grid.kv_tiles), bool)
    i, j = np.divmod(np.arange(unknown.size), grid.kv_tiles)
    zero = np.zeros_like(i)
    tiles = subdivide.Rects(zero, zero, i, i + 1, j, j + 1)
    unknown[i, j] = scene.truth(pairs_of(tiles, grid)).maybe
    points = 0
    evaluate = Scene.evaluate

    def counted(self: Scene, b: Any, h: Any, rows: Any, columns: Any) -> Any:
        nonlocal points
        rows, columns = np.broadcast_arrays(rows, columns)
        assert unknown[rows // 16, columns // 16].all(), "a proven tile is evaluated"
        points += rows.size
        return evaluate(self, b, h, rows, columns)

    monkeypatch.setattr(Scene, "evaluate", counted)
    again = sum(len(tiles.partial) for tiles in map_tiles(scene))
    assert again <= unknown.sum() < unknown.size / 8
    assert 0 < points <= unknown.sum() * 16 * 16


# --- fast ways to the same answer ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["document", "neighborhood", "power_attention", "strided_heads"])
def test_bands_of_few_boxes_make_the_same_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = SAMPLES[name]
    mask, sizes, axes = sample.make(), (sample.q_len, sample.kv_len), (BATCH, HEADS)
    plan = fx.plan(mask, *sizes, batch=BATCH, heads=HEADS, tile=(2, 4))
    monkeypatch.setattr(subdivide, "BOXES", 3)
    bands = list(map_tiles(plan.scene))
    assert len(bands) > 3
    grid, last = plan.scene.grid, -1
    for tiles in bands:
        rows = [((x.b * grid.heads + x.h) * grid.q_tiles, x) for x in (tiles.full, tiles.partial)]
        if not any(len(x) for _, x in rows):
            continue
        assert last < min(int((at + x.r0).min()) for at, x in rows if len(x)), "rows ascend"
        last = max(int((at + x.r1).max()) - 1 for at, x in rows if len(x))
    np.testing.assert_array_equal(as_table(plan).to_dense(), plan.to_dense())
    assert plan.to_dense().shape[:2] == axes


@given(st.integers(0, 2**16), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_runs_along_the_other_axis(seed: int, groups: int, outer: int, inner: int) -> None:
    states = np.random.default_rng(seed).integers(0, 3, (groups, outer, inner))

    def table_of(dense: Any) -> RunTable:
        rows = dense.reshape(-1, dense.shape[2])
        row, start = np.nonzero(rows)
        return make_table(len(rows), row, start, start + 1, rows[row, start] == 2)

    made = transpose(table_of(states), groups, outer, inner)
    expected = table_of(states.transpose(0, 2, 1))
    for name in ("offsets", "full_ends", "starts", "stops"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))


SLOPES = Table("width", np.array([3, 5, 3, 5, 9, 5]))
ALIKE: dict[str, tuple[Mask, list[int]]] = {
    "by a remainder": (
        Mask(lambda b, h, q, kv: (q + h % 2) % 5 == kv % 3), [0, 1, 0, 1, 0, 1] * 2
    ),
    "by a tensor": (
        Mask(lambda b, h, q, kv: (q - kv) % SLOPES[h] == 0, {}, (SLOPES,)), [0, 1, 0, 1, 4, 1] * 2
    ),
    "by both axes": (
        Mask(lambda b, h, q, kv: both((q + h // 3) % 4 == kv % 4, kv >= b * 7)),
        [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_heads_with_equal_masks_are_planned_once(name: str) -> None:
    mask, firsts = ALIKE[name]
    plan = make_plan(mask.program(), 40, 40, batch=2, heads=6, tile=(8, 4))
    grid = plan.scene.grid
    like = [firsts[b * 6 + h] for b in range(grid.batch) for h in range(grid.heads)]
    assert plan.scene.like_groups.tolist() == like
    planned = [tiles.partial for tiles in map_tiles(plan.scene)]
    assert {x for p in planned for x in (p.b * grid.heads + p.h).tolist()} <= set(like)
    dense = mask.dense(2, 6, 40, 40)
    for made in (plan, plan.transposed(), as_table(plan)):
        np.testing.assert_array_equal(made.to_dense(), states_of(dense, (8, 4)))
    assert plan.pairs == dense.sum()


def test_a_load_of_few_elements_is_decided_by_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 in tiles of 8: a tile reads two entries, far apart, and has two of its own."""
    chosen = np.random.default_rng(5).integers(0, 64, (64, 2))
    mask = stdlib.bigbird(chosen, 4)
    evaluated = 0
    evaluate = Scene.evaluate

    def counted(self: Scene, b: Any, h: Any, rows: Any, columns: Any) -> Any:
        nonlocal evaluated
        evaluated += np.broadcast(rows, columns).size
        return evaluate(self, b, h, rows, columns)

    monkeypatch.setattr(Scene, "evaluate", counted)
    plan = fx.plan(mask, 256, 256, tile=(8, 8))
    live = plan.live_tiles
    assert evaluated <= 64 * live, "only tiles that have an allowed pair are looked into"
    np.testing.assert_array_equal(plan.to_dense(), states_of(dense_of(mask, 256, 256), (8, 8)))


@given(st.integers(0, 2**16), st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_elements_of_a_box(seed: int, ends: list[int]) -> None:
    array = np.random.default_rng(seed).integers(0, 99, (4, 5, 6))
    low = [min(a, b) for a, b in zip(ends[:3], ends[3:], strict=True)]
    high = [max(a, b) for a, b in zip(ends[:3], ends[3:], strict=True)]
    box = array[tuple(slice(x, y + 1) for x, y in zip(low, high, strict=True))]
    table = RangeTable(array)
    lanes = [np.array([x]) for x in low], [np.array([x]) for x in high]
    inside = [
        min(y, n - 1) - min(x, n - 1) + 1 for x, y, n in zip(low, high, (4, 5, 6), strict=True)
    ]
    assert table.are_few(*lanes).tolist() == [np.prod(inside) <= FEW]
    if np.prod(inside) <= FEW and box.size:
        found = {element[0] for element in table.members(*lanes)}
        assert found == set(box.reshape(-1).tolist())
        least, most = table.extremes(*lanes)
        if box.shape[:2] == (1, 1):  # inside one row the bounds are only right
            assert least[0] <= box.min() and box.max() <= most[0]
        else:
            assert (least[0], most[0]) == (box.min(), box.max())


@given(st.integers(0, 2**16), st.integers(1, 30), st.booleans(), st.integers(1, 6))
def test_random_documents_by_joining(seed: int, documents: int, causal: bool, tile: int) -> None:
    ids = np.random.default_rng(seed).integers(0, documents, 120)
    doc = Table("doc", ids)
    same = lambda b, h, q, kv: doc[q] == doc[kv]  # noqa: E731
    function = (lambda b, h, q, kv: both(same(b, h, q, kv), q > kv)) if causal else same
    program = Mask(function, {}, (doc,)).program()
    plan = make_plan(program, 120, 110, tile=(tile, tile))
    dense = (ids[:, None] == ids[:110]) & (
        (np.arange(120)[:, None] > np.arange(110)) if causal else True
    )
    np.testing.assert_array_equal(plan.to_dense(), states_of(dense[None, None], (tile, tile)))
    assert plan.pairs == dense.sum() == join.count_joined(plan.scene)


def test_a_join_is_taken_for_many_documents_in_any_order() -> None:
    ids = np.random.default_rng(3).integers(0, 500, 2048)
    mask = fx.mask_mod(lambda b, h, q, kv: ids[q] == ids[kv])
    scene = make_plan(mask.program, 2048, 2048, tile=(16, 16)).scene
    live = join.live_tiles(scene)
    assert live is not None and 0 < len(live) < 128 * 128
    # Two documents have a million equal pairs, which need no join to be found.
    two = fx.mask_mod(lambda b, h, q, kv: ids[q] % 2 == ids[kv] % 2)
    assert join.live_tiles(make_plan(two.program, 2048, 2048, tile=(16, 16)).scene) is None


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 9),
    st.integers(1, 7), st.integers(0, 20), st.integers(-5, 5),
)  # fmt: skip
def test_counting_by_difference(
    q_len: int, kv_len: int, offset: int, step: int, width: int, shift: int
) -> None:
    mask = Mask(
        lambda b, h, q, kv: either(
            both((q - kv + shift) % step == 0, abs(q - kv) <= width),
            both(q > kv, 2 * q < 2 * kv + h),
        )
    )
    program = mask.program()
    expr = toeplitz.of_difference(program.expr)
    assert expr is not None
    scene = Scene(expr, bind({}, expr), Grid(q_len, kv_len, (4, 4), offset, 1, 3))
    counted = toeplitz.count_by_difference(scene, expr)
    assert counted == mask.dense(1, 3, q_len, kv_len, offset).sum()


def test_what_is_no_mask_of_the_difference() -> None:
    for mask in (
        lambda b, h, q, kv: both(q - kv < 5, kv < 9),
        lambda b, h, q, kv: q + kv < 5,
        lambda b, h, q, kv: q // 4 == kv // 4,
    ):
        assert toeplitz.of_difference(Mask(mask).program().expr) is None


# --- sizes and masks that are hard ----------------------------------------------------------------

UNKNOWN = Mask(lambda b, h, q, kv: ((q * kv) ^ (3 * q + 7 * kv)) % 11 == 3)


def test_a_mask_that_no_rule_understands_says_what_it_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subdivide, "MANY", 50)
    with pytest.warns(CostWarning, match=r"no rule decides the mask .* pairs are evaluated"):
        plan = make_plan(UNKNOWN.program(), 90, 80, tile=(4, 4))
    np.testing.assert_array_equal(plan.to_dense(), states_of(UNKNOWN.dense(1, 1, 90, 80), (4, 4)))


def test_what_it_costs_is_said_before_anything_is_evaluated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the first band of rows alone has few tiles."""
    monkeypatch.setattr(subdivide, "BOXES", 16)
    monkeypatch.setattr(subdivide, "MANY", 23 * 20 - 50)
    monkeypatch.setattr(subdivide, "decide", lambda *_: pytest.fail("a pair was evaluated"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CostWarning, match=r"on about 4.6e\+02 tiles of \(4, 4\)"):
            make_plan(UNKNOWN.program(), 90, 80, tile=(4, 4))


def test_ordinary_masks_say_nothing_of_cost() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mask in STDLIB.values():
            fx.plan(mask, 150, 150, tile=(1, 1)).transposed()


@pytest.mark.parametrize("name", ["causal", "document", "attention_sink"])
def test_tiles_larger_than_the_sequence(name: str) -> None:
    plan: BlockPlan = fx.plan(STDLIB[name], 5, 7, tile=(1024, 4096))
    assert (plan.q_tiles, plan.kv_tiles) == (1, 1)
    assert plan.pairs == dense_of(STDLIB[name], 5, 7).sum()
