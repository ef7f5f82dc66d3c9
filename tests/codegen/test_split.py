"""Few queries, by parts of the keys and merged, against the float64 oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import BlockPlan
from flexdsl.codegen import Phase, split_loops
from flexdsl.ir import Kind
from flexdsl.mod import as_mod, from_program
from flexdsl.runtime import bind, launch, triton_forward
from flexdsl.runtime.call import Call
from flexdsl.runtime.splits import Splits, packed_heads
from flexdsl.runtime.tuning import Config
from support.plans import as_table
from tests.codegen.oracle import DEVICE, DTYPES, eager, error, expect_gradients
from tests.codegen.variants import CAUSAL, VARIANTS

WITHOUT_GPU = pytest.mark.skipif(
    torch.cuda.is_available(), reason="tensors and tiles here are those of the interpreter"
)
PHASES = [Phase.FORWARD_SPLIT, Phase.FORWARD_MERGE]
REAL = launch.configs


def of_16_keys(phase: Phase, *of: Any, **options: Any) -> tuple[Config, ...]:
    """Short calls have many tiles by these."""
    return (Config(16, 16, 4, 1),) if phase is PHASES[0] else REAL(phase, *of, **options)


@dataclass
class Parts:
    """Compiled kernels, by so many parts of the keys whatever pays.

    Attributes:
        count: how many.
        calls: what ran.
    """

    count: int
    hopper: bool = False
    compiles: bool = True
    calls: list[tuple[Phase, Call]] = field(default_factory=list[tuple[Phase, Call]])

    def splits(self, call: Call) -> Splits:
        return Splits(self.count, packed_heads(call))

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        return True

    def backward_phases(self, call: Call) -> tuple[Phase, ...]:
        return launch.phases_of(call)

    def run(self, phase: Phase, call: Call) -> Any:
        self.calls.append((phase, call))
        return launch.run(phase, call)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def expect(
    mask: Any = None,
    score: Any = None,
    *,
    splits: int = 3,
    heads: tuple[int, int] = (4, 2),
    q_len: int = 1,
    kv_len: int = 90,
    q_offset: int | None = None,
    dims: tuple[int, int] = (32, 32),
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    configs: Any = of_16_keys,
) -> Call:
    """Hold the two kernels against the oracle, and give the call that the first one had.

    Args:
        heads: of queries, and of keys.
        q_offset: None where the last query stands at the last key.
    """
    offset = kv_len - q_len if q_offset is None else q_offset
    q = draw(batch, heads[0], q_len, dims[0], dtype=dtype)
    k = draw(batch, heads[1], kv_len, dims[0], dtype=dtype, seed=1)
    v = draw(batch, heads[1], kv_len, dims[1], dtype=dtype, seed=2)
    lengths = bind.lengths_of(q, k, offset)
    sources = bind.source_of(mask, Kind.MASK), bind.source_of(score, Kind.SCORE)
    reading = bind.read(*sources, lengths, q.device)
    tile = (0, 0) if reading.plan is None else reading.plan.tile_shape
    bound, kernels = bind.bind(reading.mask, reading.score, lengths, tile), Parts(splits)
    with patch.object(launch, "configs", configs):
        run = triton_forward.forward(kernels, bound, dims[0] ** -0.5, q, k, v)
        out, lse = run(q, k, v)
    assert [phase for phase, _ in kernels.calls if phase is not Phase.DIFFERENCES] == PHASES
    near(out, lse, (q, k, v), mask, score, offset)
    return next(call for phase, call in kernels.calls if phase is PHASES[0])


def near(
    out: Tensor, lse: Tensor, tensors: tuple[Tensor, ...], mask: Any, score: Any, offset: int
) -> None:
    """The error is at most 1.1 times that of dense attention in the same dtype."""
    q, k, v = tensors
    of_mask = from_program(mask.mask) if isinstance(mask, BlockPlan) else mask
    options: dict[str, Any] = {"mask": of_mask, "score": score, "q_offset": offset}
    exact = [x.cpu().double() for x in tensors]
    wanted, wanted_lse = fx.attention(*exact, **options, return_lse=True, backend="reference")
    dead = wanted_lse.isneginf()
    assert out.shape == wanted.shape and out.dtype is q.dtype and lse.dtype is torch.float32
    assert torch.equal(lse.cpu().isneginf(), dead) and not out[dead.to(out.device)].any()
    mods = (
        None if m is None else as_mod(m, kind)
        for m, kind in zip((of_mask, score), Kind, strict=True)
    )
    eager_out, eager_lse = eager(q, k, v, wanted_lse, *mods, offset, None)
    floor = 1e-3 if q.dtype != torch.float32 else 5e-7
    assert error(out, wanted) <= 1.1 * error(eager_out, wanted) + floor
    assert error(lse[~dead.to(lse.device)], wanted_lse[~dead]) <= 1.1 * eager_lse + 5e-7


IDS = np.repeat(np.arange(8), [30, 7, 20, 33, 40, 40, 20, 10]).astype(np.int32)
SLOPES = np.linspace(0.05, 0.01, 14).astype(np.float32)
TABLE = np.random.default_rng(0).normal(size=(8, 500)).astype(np.float32)
FACTORS = np.random.default_rng(1).normal(size=(2, 8, 200)).astype(np.float32)
COUNTED = np.random.default_rng(2).random(200) < 0.5

MASKS: dict[str, Any] = {
    "full": None,
    "causal": "q >= kv",
    "window": "q >= kv and q - kv < 40",
    "sinks and a window": "q >= kv and (kv < 4 or q - kv < 50)",
    "three intervals": lambda b, h, q, kv: kv < 20 or abs(q - kv) < 30 or 90 < kv < 130,
    "documents by a table": lambda b, h, q, kv: IDS[q] == IDS[kv] and q >= kv,
    "documents by offsets": stdlib.document_causal(offsets=[0, 13, 14, 150, 200]),
    "a table of many runs": lambda b, h, q, kv: COUNTED[kv // 16] or q == kv,
    "windows of heads": lambda b, h, q, kv: q >= kv and q - kv < 17 * (h + 1),
    "heads without a plan of their own": lambda b, h, q, kv: (q + kv + h) % 3 != 0,
    "batches": lambda b, h, q, kv: q >= kv and kv >= 50 * b,
    "tiles that lie apart": stdlib.strided(70),
    "tiles apart and a window": stdlib.strided_heads(4, 3, 35, 8),
    "stretches": lambda b, h, q, kv: kv < 40 or (q - kv) % 67 < 5,
    "rows without keys": lambda b, h, q, kv: q % 2 == 0 and kv < q - 3,
    "nothing": lambda b, h, q, kv: False,
    "blocks": lambda b, h, q, kv: kv // 16 % 3 == 0,
}
SCORES: dict[str, Any] = {
    "ALiBi": lambda s, b, h, q, kv: s + SLOPES[h] * (kv - q),
    "softcap": lambda s, b, h, q, kv: 20.0 * fx.tanh(s / 20.0),
    "softcap of heads": lambda s, b, h, q, kv: (h + 5.0) * fx.tanh(s / (h + 5.0)),
    "a table by head and difference": lambda s, b, h, q, kv: s + TABLE[h, kv - q + 250],
    "products": lambda s, b, h, q, kv: s + FACTORS[0, h, q] * FACTORS[1, h, kv],
    "a cosine of the difference": lambda s, b, h, q, kv: s + fx.cos(SLOPES[h] * (q - kv)),
    "minus infinity": lambda s, b, h, q, kv: s if q >= kv else -float("inf"),
}


# Groups of one head, and of four; of eight where heads are alike and where they are not.
@pytest.mark.parametrize(
    ("name", "heads"),
    [(name, heads) for heads in ((2, 2), (8, 2)) for name in MASKS]
    + [(name, (8, 1)) for name in ("causal", "documents by a table", "windows of heads")],
    ids=str,
)
def test_masks(name: str, heads: tuple[int, int]) -> None:
    call = expect(MASKS[name], heads=heads, kv_len=200, batch=2)
    group = heads[0] // heads[1]
    assert call.sizes["packed"] == (1 if "heads" in name or "tiles apart" in name else group)
    expect(MASKS[name], heads=heads, q_len=5, kv_len=187, splits=4)


@pytest.mark.parametrize("heads", [(2, 2), (8, 2)], ids=str)
@pytest.mark.parametrize("name", SCORES)
def test_scores(name: str, heads: tuple[int, int]) -> None:
    for q_len in (1, 3):
        expect("q >= kv", SCORES[name], heads=heads, q_len=q_len, kv_len=200)


def test_tables_of_differences() -> None:
    """They are there from 8 pairs of each difference on."""
    score = fx.score_mod(SCORES["a cosine of the difference"])
    call = expect(None, score, heads=(4, 2), q_len=16, kv_len=100)
    assert call.bound.tables and call.sizes["packed"] == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dims", [(16, 16), (64, 128), (96, 48), (20, 12), (256, 256), (7, 3)])
def test_head_dims(dims: tuple[int, int], dtype: torch.dtype) -> None:
    expect("q >= kv", q_len=3, kv_len=150, dims=dims, dtype=dtype, configs=REAL)


@pytest.mark.parametrize(
    ("q_len", "heads", "packed"),
    [(1, (6, 2), 3), (9, (14, 2), 7), (16, (8, 1), 4), (20, (6, 1), 3), (33, (4, 1), 1)],
)
def test_rows_of_a_program(q_len: int, heads: tuple[int, int], packed: int) -> None:
    """Heads that are no power of two, and such as do not all fit."""
    call = expect("q >= kv", SCORES["ALiBi"], heads=heads, q_len=q_len, kv_len=80, configs=REAL)
    assert call.sizes["packed"] == packed


@pytest.mark.parametrize("splits", [1, 2, 7, 40])
@pytest.mark.parametrize("kv_len", [1, 15, 16, 100])
def test_more_splits_than_tiles(kv_len: int, splits: int) -> None:
    for name in ("causal", "window", "documents by a table", "tiles that lie apart"):
        expect(MASKS[name], splits=splits, kv_len=kv_len)


@pytest.mark.parametrize("q_offset", [0, 5, 300])
def test_queries_before_and_after_the_keys(q_offset: int) -> None:
    for mask in ("q >= kv", "q >= kv and q - kv < 40", "kv > q"):
        expect(mask, q_len=4, kv_len=100, q_offset=q_offset)


def test_a_plan_of_any_tile_and_kind() -> None:
    """Of one mask, the plan as formulas and as a table."""
    mask = fx.mask_mod(lambda b, h, q, kv: q >= kv and kv % 50 < 30)
    for tile in ((128, 128), (16, 16), (1, 48)):
        plan = fx.plan(mask, 3, 170, q_offset=167, tile=tile)
        for of in (plan, as_table(plan)):
            call = expect(of, q_len=3, kv_len=170)
            assert call.sizes["packed"] == 2


@WITHOUT_GPU
def test_a_plan_that_a_kernel_makes() -> None:
    for name in ("documents by a table", "a table of many runs", "documents by offsets"):
        mask = fx.mask_mod(MASKS[name]) if callable(MASKS[name]) else MASKS[name]
        plan = fx.plan(mask, 3, 170, q_offset=27, device="cpu")
        assert plan.device is not None
        expect(plan, q_len=3, kv_len=170, q_offset=27, splits=4)


def test_a_table_of_each_head() -> None:
    chosen = np.random.default_rng(4).random((1, 4, 1, 10)) < 0.5
    plan = fx.BlockPlan.from_blocks(chosen, tile=(16, 16), q_len=2, kv_len=155)
    call = expect(plan, q_len=2, kv_len=155, q_offset=0)
    assert call.sizes["packed"] == 1


@pytest.mark.parametrize("splits", [1, 3, 8])
@pytest.mark.parametrize("part", [0.3, 0.6])
def test_more_runs_than_are_looked_at_together(
    part: float, splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_loops, "_RUNS", 4)
    monkeypatch.setattr(launch, "_KERNELS", {})
    generator = np.random.default_rng(5)
    keys, half = generator.random(40) < part, generator.random(640) < 0.5
    for mask in (
        lambda b, h, q, kv: keys[kv // 16],
        lambda b, h, q, kv: keys[kv // 16] and (half[kv] or kv // 16 % 3 == 0),
    ):
        expect(fx.mask_mod(mask), kv_len=630, splits=splits, heads=(2, 1))


def test_strided_inputs() -> None:
    q = draw(2, 3, 8, 32).transpose(1, 2)
    k, v = (draw(2, 600, 2, 64, seed=s)[..., :32].transpose(1, 2) for s in (1, 2))
    options: dict[str, Any] = {"mask": CAUSAL, "q_offset": 597, "backend": "triton"}
    out = fx.attention(q, k, v, **options)
    assert torch.equal(out, fx.attention(*(x.contiguous() for x in (q, k, v)), **options))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Phase]:
    """The phases that run."""
    found: list[Phase] = []

    def run(phase: Phase, *of: Any) -> Any:
        found.append(phase)
        return start(phase, *of)

    start = launch.launch
    monkeypatch.setattr(launch, "launch", run)
    return found


LONG: dict[str, tuple[Any, Any]] = {
    "full": (None, None),
    "causal": (CAUSAL, VARIANTS["alibi"].score),
    "sinks": (fx.mask_mod(lambda b, h, q, kv: q >= kv and (kv < 4 or q - kv < 650)), None),
    "softcap": (None, SCORES["softcap"]),
    "packed": (stdlib.document_causal(offsets=[0, 20, 700]), None),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LONG)
def test_attention_takes_them_for_few_queries(
    name: str, dtype: torch.dtype, ran: list[Phase]
) -> None:
    mask, score = LONG[name]
    q, k, v = (draw(2, n, m, 80, dtype=dtype) for n, m in ((4, 2), (2, 700), (2, 700)))
    options: dict[str, Any] = {"mask": mask, "score": score, "q_offset": 698}
    out, lse = fx.attention(q, k, v, **options, return_lse=True, backend="triton")
    assert ran == PHASES
    near(out, lse, (q, k, v), mask, score, 698)


def test_gradients_are_those_of_the_ordinary_backward_pass(ran: list[Phase]) -> None:
    expect_gradients(CAUSAL, q_len=2, kv_len=560, kv_heads=2, q_offset=558)
    assert ran[:2] == PHASES and Phase.BACKWARD_QUERY in ran


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 9))
def test_splits_share_tiles_evenly(loops: list[int], splits: int) -> None:
    """Of all loops together, none has more than one tile more than another."""
    module: dict[str, Any] = {"triton": SimpleNamespace(jit=lambda function: function)}
    exec(split_loops.SHARE_OF, module)
    total, visited = [0] * splits, [0] * sum(loops)
    before = 0
    for tiles in loops:
        for split in range(splits):
            first, count = module["share_of"](tiles, before, split, splits)
            for step in range(count):
                nth = first + step * splits
                assert 0 <= nth < tiles
                visited[before + nth] += 1
                total[split] += 1
        before += tiles
    assert set(visited) <= {1} and max(total) - min(total) <= 1


ENDS = np.arange(400) // 60 * 60
SPARSE = np.random.default_rng(3).random(400) < 0.3


@st.composite
def conditions(draw: st.DrawFn) -> fx.Mod:
    """A mask of up to three conditions: formulas, rows' ends, stretches, and tables."""
    n, m = draw(st.integers(-40, 250)), draw(st.integers(0, 300))
    size, other = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    atoms = [
        lambda b, h, q, kv: q + n >= kv,
        lambda b, h, q, kv: q - kv < m,
        lambda b, h, q, kv: kv < m + 20 * h,
        lambda b, h, q, kv: q // size == kv // other,
        lambda b, h, q, kv: q + kv < 3 * size,
        lambda b, h, q, kv: (q - kv) % (size + 20) < 7,
        lambda b, h, q, kv: (q + h - kv) % (size + 20) == 0,
        lambda b, h, q, kv: kv >= ENDS[q],
        lambda b, h, q, kv: kv < ENDS[q] + size,
        lambda b, h, q, kv: SPARSE[kv // 16 + other] or q == kv,
        lambda b, h, q, kv: (q + kv + b) % 5 != h,
    ]
    masks = [fx.mask_mod(draw(st.sampled_from(atoms))) for _ in range(draw(st.integers(1, 3)))]
    found = masks[0]
    for mask in masks[1:]:
        found = found & mask if draw(st.booleans()) else found | mask
    return found


@settings(max_examples=60)
@given(
    conditions(),
    st.sampled_from([None, *SCORES]),
    st.tuples(st.integers(1, 9), st.integers(1, 200), st.integers(0, 180)),
    st.sampled_from([(2, 2), (4, 2), (6, 1)]),
    st.integers(1, 12),
)
def test_any_conditions(
    mask: fx.Mod,
    score: str | None,
    lengths: tuple[int, int, int],
    heads: tuple[int, int],
    splits: int,
) -> None:
    q_len, kv_len, offset = lengths
    expect(
        mask,
        SCORES.get(score),
        splits=splits,
        heads=heads,
        q_len=q_len,
        kv_len=kv_len,
        q_offset=offset,
        dims=(16, 16),
    )
