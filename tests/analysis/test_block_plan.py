"""Every tile of a plan against brute force on plain ints, whichever way the plan was made."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from flexdsl.analysis import BlockPlan, make_plan
from flexdsl.analysis.grid import Grid
from flexdsl.analysis.scene import Scene
from flexdsl.analysis.subdivide import map_tiles
from flexdsl.analysis.table import table_of_maps
from flexdsl.analysis.values import bind, specialise, substitute
from flexdsl.errors import ArgumentError, KindError, TypeMismatchError
from flexdsl.ir import (
    DTYPE_BY_LIBRARY_NAME,
    Capture,
    Kind,
    Op,
    Program,
    Type,
    apply,
    const,
    load,
    var,
)
from support.expressions import VALUES, build, trees
from support.masks import (
    HEADS,
    Mask,
    Shape,
    Table,
    both,
    either,
    masks,
    maximum,
    minimum,
    no,
    shapes,
    solvable_masks,
    states_of,
    where,
)


def window(size: int) -> Callable[..., Any]:
    return lambda b, h, q, kv: both(q >= kv, q - kv < size)


RNG = np.random.default_rng(0)
DOC = Table("doc", np.sort(RNG.integers(0, 6, 300)))
MIXED = Table("doc", RNG.integers(0, 3, 300))
OF_BATCH = Table("doc", np.sort(RNG.integers(0, 4, (2, 300)), axis=1))
LENGTHS = Table("lengths", np.array([30, 200]))
PER_HEAD = Table("window", np.array([1, 40, 100]))
GATE = Table("gate", RNG.random((20, 20)) < 0.5)

NONE_FOR_ONE = Table("window", np.array([0, 40, 100]))
CLOSED: dict[str, Mask] = {
    "causal": Mask(lambda b, h, q, kv: q >= kv),
    "causal, shifted": Mask(lambda b, h, q, kv, shift: q + shift >= kv, {"shift": 37}),
    "causal, shifted back": Mask(lambda b, h, q, kv, shift: q + shift >= kv, {"shift": -50}),
    "window": Mask(lambda b, h, q, kv, w: both(q >= kv, q - kv < w), {"w": 40}),
    "window of one": Mask(window(1)),
    "two-sided window": Mask(lambda b, h, q, kv: abs(q - kv) <= 20),
    "uneven window": Mask(lambda b, h, q, kv: both(kv - q < 7, q - kv <= 33)),
    "sinks and window": Mask(
        lambda b, h, q, kv, w: both(q >= kv, either(kv < 4, q - kv < w)), {"w": 50}
    ),
    "prefix": Mask(lambda b, h, q, kv, n: either(q >= kv, kv < n), {"n": 70}),
    "chunks": Mask(lambda b, h, q, kv: q // 48 == kv // 48),
    "causal chunks": Mask(lambda b, h, q, kv: both(q // 48 == kv // 48, q >= kv)),
    "chunk start by remainder": Mask(lambda b, h, q, kv: both(kv >= q - q % 48, kv <= q)),
    "block causal": Mask(lambda b, h, q, kv: q // 48 >= kv // 48),
    "blocks of unlike sizes": Mask(lambda b, h, q, kv: q // 16 >= kv // 5),
    "window of chunks": Mask(lambda b, h, q, kv: both(q // 16 >= kv // 16, q // 16 - kv // 16 < 3)),
    "window of each head": Mask(
        lambda b, h, q, kv: both(q >= kv, q - kv < PER_HEAD[h]), {}, (PER_HEAD,)
    ),
    "padding": Mask(lambda b, h, q, kv: kv < LENGTHS[b], {}, (LENGTHS,)),
    "padded and causal": Mask(lambda b, h, q, kv: both(kv < LENGTHS[b], q >= kv), {}, (LENGTHS,)),
    "one head is causal": Mask(lambda b, h, q, kv: where(h == 1, q >= kv, kv < 9)),
    "late rows only": Mask(lambda b, h, q, kv: both(q >= 90, window(40)(b, h, q, kv))),
    "not a window": Mask(lambda b, h, q, kv: no(window(40)(b, h, q, kv))),
    "clamped": Mask(lambda b, h, q, kv: kv >= minimum(maximum(q - 37, 0), 100)),
    "compressed": Mask(lambda b, h, q, kv: (kv + 1) * 16 <= q),
    "other direction": Mask(lambda b, h, q, kv: q + kv < 250),
    "heads in turn": Mask(lambda b, h, q, kv: (q + kv) % HEADS == h),
    "rows alone": Mask(lambda b, h, q, kv: q >= 50),
    "everything": Mask(lambda b, h, q, kv: True),
    "nothing": Mask(lambda b, h, q, kv: False),
    "one head sees nothing": Mask(
        lambda b, h, q, kv: both(q >= kv, q - kv < NONE_FOR_ONE[h]), {}, (NONE_FOR_ONE,)
    ),
}
TABLE: dict[str, Mask] = {
    "rows far apart": Mask(lambda b, h, q, kv: kv == q * 50),
    "documents": Mask(lambda b, h, q, kv: both(DOC[q] == DOC[kv], q >= kv), {}, (DOC,)),
    "mixed documents": Mask(lambda b, h, q, kv: MIXED[q] == MIXED[kv], {}, (MIXED,)),
    "documents of each batch": Mask(
        lambda b, h, q, kv: OF_BATCH[b, q] == OF_BATCH[b, kv], {}, (OF_BATCH,)
    ),
    "dilated": Mask(lambda b, h, q, kv: both((q - 2 * kv) % 5 == 0, q >= kv)),
    "neighbourhood": Mask(
        lambda b, h, q, kv: both(abs(q // 17 - kv // 17) <= 2, abs(q % 17 - kv % 17) <= 2)
    ),
    "butterfly": Mask(lambda b, h, q, kv: (q ^ kv) % 64 == 0),
    "random blocks": Mask(lambda b, h, q, kv: GATE[q // 16, kv // 16], {}, (GATE,)),
}
# (q_len, kv_len, tile, q_offset): odd lengths, tiles larger than the sequence, an offset.
SHAPES = [
    Shape(192, 192, (32, 32), 0),
    Shape(131, 200, (16, 48), 0),
    Shape(200, 97, (64, 16), 0),
    Shape(50, 211, (24, 7), 64),
    Shape(60, 60, (128, 128), 3),
]


def check(plan: BlockPlan, dense: Any) -> None:
    """All that a plan says, against the mask pair by pair."""
    states = states_of(dense, plan.tile_shape)
    np.testing.assert_array_equal(plan.to_dense(), states)
    other = plan.transposed()
    assert other.outer == "kv" and other.transposed() is plan
    np.testing.assert_array_equal(other.to_dense(), states)
    check_runs(plan, states)
    check_runs(other, states.swapaxes(2, 3))
    assert plan.pairs == other.pairs == dense.sum()
    empty = bool((~dense.any(axis=3)).any())
    assert plan.may_have_empty_rows == other.may_have_empty_rows == empty
    assert plan.density == pytest.approx((states > 0).mean())


def check_runs(plan: BlockPlan, states: Any) -> None:
    """Runs are ascending, disjoint, maximal, and say what the tiles are."""
    for b, h, i in np.ndindex(*states.shape[:3]):
        found = np.zeros(states.shape[3], np.int8)
        last, full = -1, None
        for run in plan.runs(b, h, i):
            assert run.start < run.stop
            assert run.start > last or (run.start == last and run.full != full)
            found[run.start : run.stop] = 1 + run.full
            last, full = run.stop, run.full
        np.testing.assert_array_equal(found, states[b, h, i])


def plan_of(mask: Mask, shape: Shape, batch: int = 2, heads: int = HEADS) -> BlockPlan:
    return make_plan(
        mask.program(), shape.q_len, shape.kv_len,
        batch=batch, heads=heads, tile=shape.tile, q_offset=shape.q_offset,
    )  # fmt: skip


def dense_of(mask: Mask, shape: Shape, batch: int = 2, heads: int = HEADS) -> Any:
    """Brute force; batches and heads that the mask does not tell apart are computed once."""
    used = mask.program().expr.variables
    small = mask.dense(
        batch if "b" in used else 1, heads if "h" in used else 1,
        shape.q_len, shape.kv_len, shape.q_offset,
    )  # fmt: skip
    return np.broadcast_to(small, (batch, heads, *small.shape[2:]))


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name: str) -> None:
    for shape in SHAPES:
        plan = plan_of(CLOSED[name], shape)
        assert plan.kind == "closed-form" and plan.table is None and plan.nbytes == 0
        check(plan, dense_of(CLOSED[name], shape))


@pytest.mark.parametrize("name", TABLE)
def test_tables(name: str) -> None:
    for shape in SHAPES:
        plan = plan_of(TABLE[name], shape)
        assert plan.kind == "table" and plan.closed_form is None and plan.table is not None
        assert plan.why_table is not None and plan.why_table.reason
        check(plan, dense_of(TABLE[name], shape))


@pytest.mark.parametrize("size", [*range(56, 68), 1, 5, 31, 32, 33, 100, 500])
def test_sinks_that_touch_the_window(size: int) -> None:
    """With some windows a tile is full in sinks and window together, in neither alone."""
    mask = Mask(lambda b, h, q, kv: both(q >= kv, either(kv < 4, q - kv < size)))
    shape = Shape(200, 200, (32, 32), 0)
    plan = plan_of(mask, shape, 1, 1)
    assert plan.kind == plan.transposed().kind == "closed-form"
    check(plan, dense_of(mask, shape, 1, 1))


@given(masks(), shapes())
def test_any_mask(mask: Mask, shape: Shape) -> None:
    check(plan_of(mask, shape), dense_of(mask, shape))


@given(solvable_masks(), shapes())
def test_masks_that_mostly_have_a_closed_form(mask: Mask, shape: Shape) -> None:
    check(plan_of(mask, shape), dense_of(mask, shape))


@given(trees(Type.BOOL, depth=4), shapes())
def test_any_expression_at_all(tree: tuple[object, ...], shape: Shape) -> None:
    """Floats, NaN, division by zero and indices cut to an array: as the evaluator has them."""
    try:
        expr = substitute(build(tree), {var("score"): const(0.5)})
        expr = specialise(expr, bind(VALUES, expr))
    except TypeMismatchError:
        return
    grid = Grid(shape.q_len, shape.kv_len, shape.tile, shape.q_offset, 2, HEADS)
    scene = Scene(expr, bind(VALUES, expr), grid)
    b, h = np.arange(2)[:, None, None, None], np.arange(HEADS)[:, None, None]
    dense = scene.evaluate(b, h, np.arange(shape.q_len)[:, None], np.arange(shape.kv_len))
    states = states_of(dense, shape.tile).reshape(-1, grid.kv_tiles)
    table = table_of_maps(map_tiles(scene), scene)
    for row, expected in enumerate(states):
        found = np.zeros(grid.kv_tiles, np.int8)
        for start, stop, full in table.runs(row):
            found[start:stop] = 1 + full
        np.testing.assert_array_equal(found, expected)


def test_a_window_of_no_bound_stays_in_range() -> None:
    """q + window would not fit in the 32 bits of a kernel."""
    mask = Mask(lambda b, h, q, kv, w: abs(q - kv) < w, {"w": 2**31 - 1})
    plan = plan_of(mask, SHAPES[0])
    assert plan.kind == "table" and plan.why_table is not None
    assert "32 bits" in plan.why_table.reason
    assert plan.density == 1 and plan.pairs == 2 * HEADS * 192 * 192
    causal = Mask(lambda b, h, q, kv, w: both(q >= kv, q - kv < w), {"w": 2**31 - 1})
    assert plan_of(causal, SHAPES[0]).kind == "closed-form"


@given(solvable_masks(), shapes())
def test_a_table_of_any_mask_is_the_same(mask: Mask, shape: Shape) -> None:
    plan, program = plan_of(mask, shape), mask.program()
    grid = Grid(shape.q_len, shape.kv_len, shape.tile, shape.q_offset, 1, HEADS)
    scene = Scene(program.expr, bind(program.values, program.expr), grid)
    table = table_of_maps(map_tiles(scene), scene)
    for h in range(HEADS):
        for i in range(grid.q_tiles):
            runs = [(r.start, r.stop, r.full) for r in plan.runs(1, h, i)]
            assert table.runs(h * grid.q_tiles + i) == runs


@pytest.mark.parametrize("name", ["sinks and window", "prefix", "window", "causal chunks"])
def test_one_interval_of_the_transposed_plan(name: str) -> None:
    form = plan_of(CLOSED[name], SHAPES[0]).transposed().closed_form
    assert form is not None and len(form.intervals) == 1


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bfloat16", "float32", "bool"])
def test_captures_of_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = (torch.arange(64) // 9 % 2).to(getattr(torch, dtype))
    capture = Capture("x", DTYPE_BY_LIBRARY_NAME[dtype], 1)
    at_q, at_kv = (load(capture, var(name)) for name in ("q", "kv"))
    program = Program(Kind.MASK, "same", apply(Op.EQ, at_q, at_kv), {"x": tensor})
    plan = make_plan(program, 64, 64, tile=(8, 8))
    array = tensor.float().numpy()
    np.testing.assert_array_equal(
        plan.to_dense(), states_of((array[:, None] == array)[None, None], (8, 8))
    )


@pytest.mark.parametrize("sizes", [(0, 5, 1, 1), (5, 0, 1, 1), (5, 5, 0, 1), (5, 5, 1, 0)])
@pytest.mark.parametrize("name", ["causal", "dilated"])
def test_empty_sizes(sizes: tuple[int, int, int, int], name: str) -> None:
    q_len, kv_len, batch, heads = sizes
    program = (CLOSED | TABLE)[name].program()
    plan = make_plan(program, q_len, kv_len, batch=batch, heads=heads, tile=(2, 2))
    assert plan.pairs == 0 and plan.density == 0 and plan.live_tiles == 0
    assert plan.may_have_empty_rows == (kv_len == 0)
    assert plan.to_dense().shape == (batch, heads, -(-q_len // 2), -(-kv_len // 2))
    assert plan.transposed().pairs == 0
    assert plan.explain() and str(plan)
    if kv_len == 0:
        assert plan.runs(0, 0, 0) == []


def test_no_mask() -> None:
    plan = make_plan(None, 300, 1000, batch=2, heads=4, tile=(128, 128))
    assert plan.kind == "closed-form" and plan.pairs == 2 * 4 * 300 * 1000
    assert plan.density == 1 and not plan.may_have_empty_rows
    assert [(r.start, r.stop, r.full) for r in plan.runs(1, 3, 2)] == [(0, 8, True)]
    assert plan.tile(0, 0, 2, 7) == "full"


def test_a_tile_by_name() -> None:
    plan = plan_of(CLOSED["window"], SHAPES[0])
    assert [plan.tile(0, 0, 3, j) for j in range(6)] == [
        "empty", "partial", "partial", "partial", "empty", "empty",
    ]  # fmt: skip
    assert plan.transposed().tile(0, 0, 3, 1) == "partial"


def test_the_mask_itself() -> None:
    shape = SHAPES[3]
    for name in ("window of each head", "documents of each batch"):
        mask = (CLOSED | TABLE)[name]
        dense = plan_of(mask, shape).to_dense(tokens=True)
        np.testing.assert_array_equal(dense, dense_of(mask, shape))


def test_axes_that_do_not_matter_are_not_in_the_table() -> None:
    plan = plan_of(TABLE["documents of each batch"], SHAPES[0], heads=64)
    assert (plan.depends_on_batch, plan.depends_on_head) == (True, False)
    assert plan.table is not None and plan.table.rows == 2 * plan.q_tiles
    assert plan.runs(1, 63, 2) == plan.runs(1, 0, 2)


@pytest.mark.parametrize("name", ["window", "sinks and window", "documents"])
def test_a_long_plan_allocates_little(name: str) -> None:
    """Nothing of the size of the matrix, nor of the grid of tiles (here 2**20 tiles)."""
    doc = Table("doc", np.arange(131072) // 1000)
    mask = {**CLOSED, "documents": Mask(lambda b, h, q, kv: doc[q] == doc[kv], {}, (doc,))}[name]
    program = mask.program()
    make_plan(program, 1024, 1024)
    tracemalloc.start()
    plan = make_plan(program, 131072, 131072)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (1 << 18 if name == "window" else 1 << 22)
    assert plan.q_tiles == 1024


def test_pairs_of_a_long_plan() -> None:
    n, w = 131072, 1024
    program = Mask(window(w)).program()
    plan = make_plan(program, n, n)
    assert plan.pairs == w * n - w * (w - 1) // 2
    assert plan.transposed().kind == "closed-form"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"q_len": -1}, "q_len is -1"),
        ({"kv_len": 2.5}, "kv_len is 2.5"),
        ({"batch": True}, "batch is True"),
        ({"tile": (0, 128)}, "tile is"),
        ({"tile": (128,)}, "tile is"),
        ({"q_offset": -5}, "q_offset is -5"),
        ({"q_offset": 2**31}, "position"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_plan(None, **{"q_len": 4, "kv_len": 4, **arguments})


def test_wrong_questions() -> None:
    plan = make_plan(None, 256, 256)
    for arguments in ((1, 0, 0), (0, 1, 0), (0, 0, 2), (0, 0, -1)):
        with pytest.raises(ArgumentError):
            plan.runs(*arguments)
    with pytest.raises(ArgumentError):
        plan.tile(0, 0, 0, 2)


def test_a_score_has_no_plan() -> None:
    with pytest.raises(KindError, match="capped"):
        make_plan(Program(Kind.SCORE, "capped", var("score")), 4, 4)
    assert make_plan(Program(Kind.MASK, "all", const(True)), 4, 4).pairs == 16
