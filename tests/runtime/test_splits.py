"""When a forward pass of few queries is split, in how many parts, and how it is run again."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flexdsl as fx
from flexdsl.bundle.driver import Clear, Start
from flexdsl.bundle.manifest import Parameter
from flexdsl.bundle.words import Layout
from flexdsl.codegen import Phase, Role
from flexdsl.ir import Kind
from flexdsl.runtime import bind, launch, machine, splits, triton_forward
from flexdsl.runtime.call import Call, programs_of, value_of
from flexdsl.runtime.replay import Function, Launch, launch_of
from flexdsl.runtime.splits import MOST_ROWS, Splits, find_splits, packed_heads, rows_of

WITHOUT_GPU = pytest.mark.skipif(
    torch.cuda.is_available(), reason="beside a GPU kernels are not interpreted"
)
SPLIT, MERGE = Phase.FORWARD_SPLIT, Phase.FORWARD_MERGE


def call_of(
    heads: tuple[int, int],
    q_len: int,
    kv_len: int,
    mask: Any = None,
    *,
    batch: int = 1,
    dim: int = 128,
    dtype: torch.dtype = torch.bfloat16,
) -> Call:
    """A call whose tensors hold nothing."""
    options: dict[str, Any] = {"dtype": dtype, "device": "meta"}
    q = torch.empty(batch, heads[0], q_len, dim, **options)
    k = torch.empty(batch, heads[1], kv_len, dim, **options)
    lengths = bind.lengths_of(q, k, kv_len - q_len)
    reading = bind.read(bind.source_of(mask, Kind.MASK), None, lengths, torch.device("cpu"))
    tile = (0, 0) if reading.plan is None else reading.plan.tile_shape
    bound = bind.bind(reading.mask, None, lengths, tile)
    return Call(bound, 1.0, {"query": q, "key": k, "value": k}, {})


@pytest.fixture
def of_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Splits | None]:
    """How a GPU of 132 multiprocessors splits a call."""
    monkeypatch.setattr(splits, "_multiprocessors", lambda device: 132)
    return launch.compiling_for("triton", 90, *[torch.empty(1, 1, 1, 128)] * 2).splits


def test_splits_of_a_gpu(of_gpu: Callable[..., Splits | None]) -> None:
    """Programs of 264 that run at a time; each has tiles of 64 keys."""
    assert of_gpu(call_of((32, 8), 1, 32768, batch=8)) == Splits(4, 4)
    assert of_gpu(call_of((32, 8), 1, 131072)) == Splits(33, 4)
    assert of_gpu(call_of((32, 32), 1, 131072)) == Splits(8, 1)
    # Four tiles for each split.
    assert of_gpu(call_of((8, 8), 1, 1024)) == Splits(4, 1)
    # Heads that share a program are worth it by themselves.
    assert of_gpu(call_of((32, 8), 1, 8192, batch=512)) == Splits(1, 4)
    assert of_gpu(call_of((8, 8), 1, 8192, batch=512)) is None
    # A window leaves few tiles; more than 64 queries fill a tile.
    assert of_gpu(call_of((32, 8), 1, 32768, "q >= kv and q - kv < 256")) is None
    assert of_gpu(call_of((32, 8), MOST_ROWS + 1, 32768)) is None
    assert of_gpu(call_of((32, 8), MOST_ROWS, 32768)) == Splits(8, 1)


@pytest.mark.parametrize("kv_len", [1, 64, 448])
def test_with_one_split_s_worth_of_work_nothing_changes(
    of_gpu: Callable[..., Splits | None], kv_len: int
) -> None:
    assert of_gpu(call_of((32, 8), 1, kv_len, batch=8)) is None


def test_who_has_the_ordinary_kernel() -> None:
    q = torch.empty(1, 32, 1, 128, dtype=torch.bfloat16)
    call = call_of((32, 8), 1, 32768)
    assert launch.compiling_for("auto", 90, q, q).splits(call) is not None
    assert launch.compiling_for("hopper", 90, q, q).splits(call) is None


def test_heads_that_share_a_program() -> None:
    assert packed_heads(call_of((32, 4), 1, 999)) == 8
    assert packed_heads(call_of((24, 2), 7, 999)) == 6  # 12 heads for each; 84 rows are too many
    assert packed_heads(call_of((32, 4), 40, 999)) == 1
    assert packed_heads(call_of((32, 4), 65, 999)) == 0
    assert packed_heads(call_of((32, 4), 1, 999, "q + 9 * h >= kv")) == 1
    assert packed_heads(call_of((32, 4), 1, 999, fx.plan("q >= kv", 1, 999, q_offset=998))) == 8
    chosen = torch.ones(1, 32, 1, 8, dtype=torch.bool)
    of_heads = fx.BlockPlan.from_blocks(chosen, q_len=1, kv_len=999, q_offset=998)
    assert packed_heads(call_of((32, 4), 1, 999, of_heads)) == 1


@given(
    st.integers(1, 5000),
    st.integers(1, 4000),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 200),
)
def test_every_number_of_splits_makes_sense(
    programs: int, tiles: int, packed: int, multiprocessors: int
) -> None:
    before, splits._multiprocessors = splits._multiprocessors, lambda device: multiprocessors
    call: Any = SimpleNamespace(
        bound=SimpleNamespace(lengths=SimpleNamespace(batch=programs, heads=packed)), device=None
    )
    live = tiles * programs * packed
    plan: Any = SimpleNamespace(batch=programs, heads=packed, device=None, live_tiles=live)
    try:
        found = find_splits(call, plan, packed)
    finally:
        splits._multiprocessors = before
    if found is None:
        return
    assert found.packed == packed and 1 <= found.count <= tiles // splits._FEWEST_TILES
    at_a_time = splits._AT_A_TIME * multiprocessors
    assert found.count == 1 or found.count * programs <= splits._MOST_WAVES * at_a_time


def test_rows_of_a_program() -> None:
    assert [rows_of(q, p) for q, p in ((1, 1), (4, 4), (17, 1), (8, 4), (9, 7))] == [
        *(16, 16, 32, 32, 64)
    ]


class Recorded:
    """Kernels that run, and a machine that writes down what it is told to run again."""

    hopper = compiles = False

    def __init__(self) -> None:
        self.names: list[list[str]] = []
        self.started: list[dict[str, int]] = []
        self.phases: list[Phase] = []

    def splits(self, call: Call) -> Splits:
        return Splits(5, 2)

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        return True

    def run(self, phase: Phase, call: Call) -> Launch:
        launch.run(phase, call)
        config = launch.candidates(phase, call, 0)[0]
        plan = None if phase is MERGE else call.plan(phase, config)
        kernel = launch.kernel_of(phase, config.language, call.spec(phase, plan, config))
        arguments = [a for a in kernel.arguments if a.role is not Role.DESCRIPTOR]
        values = [value_of(a, call, plan, None, config) for a in arguments]
        types = {torch.Tensor: "pointer", float: "fp32", int: "i32"}
        kinds = [types[type(x)] for x in values]
        parameters = tuple(map(Parameter, arguments, kinds))
        self.names.append([a.name for a in arguments])
        self.phases.append(phase)
        function = Function(len(self.names) - 1, 128, 0, 0, parameters, Layout(tuple(kinds)))
        programs = programs_of(phase, kernel.arguments, call, config)
        return launch_of(function, programs, values, call.places)

    @property
    def driver(self) -> Recorded:
        return self

    def stream(self, device: int) -> int:
        return 0

    def prepare(self, works: Sequence[Start | Clear], device: int) -> Callable[[int], None]:
        def start(stream: int) -> None:
            for work in works:
                assert isinstance(work, Start)  # nothing is to be cleared
                words = [ctypes.c_uint64.from_address(p).value for p in work.parameters]
                found = dict(zip(self.names[work.function], words, strict=True))
                self.started.append({**found, "programs": work.programs})

        return start


@WITHOUT_GPU
def test_both_kernels_are_launched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Recorded()
    monkeypatch.setattr(machine, "MACHINE", kernels)
    lengths = bind.Lengths(3, 4, 2, 100, 98)
    bound = bind.bind(None, None, lengths, (0, 0))

    def tensors() -> list[torch.Tensor]:
        return [torch.randn(3, h, n, 32) for h, n in ((4, 2), (2, 100), (2, 100))]

    run = triton_forward.forward(kernels, bound, 0.1, *tensors())
    assert len(run(*tensors())) == 2 and kernels.phases == [SPLIT, MERGE] and not kernels.started
    for _ in range(2):
        q, k, v = tensors()
        out, lse = run(q, k, v)
        split, merge = kernels.started
        assert kernels.phases == [SPLIT, MERGE]
        assert split["query"] == q.data_ptr()
        assert (merge["out"], merge["lse"]) == (out.data_ptr(), lse.data_ptr())
        for name in ("split_out", "split_lse"):
            assert split[name] == merge[name] not in (0, out.data_ptr(), lse.data_ptr())
        assert (split["programs"], merge["programs"]) == (3 * 2 * 5, 3 * 4 * 2)
        kernels.started.clear()


@WITHOUT_GPU
@pytest.mark.parametrize("mask", ["q >= kv", "q >= kv and q - kv < 900", "kv // 16 % 3 == 0"])
def test_a_longer_cache_compiles_nothing_anew(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every live tile is full, as some windows' are."""
    texts: set[tuple[str, str]] = set()
    monkeypatch.setattr(
        launch, "launch", lambda phase, kernel, *_: texts.add((phase.value, kernel.digest))
    )
    for kv_len in range(1000, 1130):
        q, k = torch.empty(1, 4, 1, 64), torch.empty(1, 2, kv_len, 64)
        fx.attention(q, k, k, mask=mask, q_offset=kv_len - 1, backend="triton")
    assert len(texts) == 2 and {phase for phase, _ in texts} == {SPLIT.value, MERGE.value}
