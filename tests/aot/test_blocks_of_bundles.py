"""Kernels of a bundle whose consumers skip chosen blocks: what they get, and who takes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.aot.plan import plan_builds
from flexdsl.aot.specs import Shape, plan_kind
from flexdsl.aot.targets import parse_target
from flexdsl.bundle.describe import describe
from flexdsl.bundle.files import Bundle, open_bundle
from flexdsl.codegen import Kernel
from tests.aot.conftest import emulated_gpu
from tests.aot.emulation import Emulated, tensor_at
from tests.aot.test_bits_of_bundles import attend, phases, told

HALF = 64
TABLE = torch.rand(2, 5, 8, generator=torch.Generator().manual_seed(1)) < 0.4
CALL: dict[str, Any] = {"keys": 450, "allowed": TABLE}
PLANNED = [(phase, "none") for phase in ("plan_states", "plan_refine", "plan_counts", "plan_runs")]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("chosen") / "dist"
    mask = stdlib.block_table(TABLE, HALF)
    phase = {"phases": ["forward", "backward"]}
    fx.build(fx.variant("chosen", mask=mask), out=folder, target="cuda:90", jobs=2, **phase)
    return open_bundle(folder)


@pytest.fixture
def gpu(chosen: Bundle, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """It runs kernels in Triton, as those that make plans, and records the others."""
    return emulated_gpu("cuda:90", chosen, monkeypatch)


def test_both_passes_skip_blocks(chosen: Bundle, gpu: Emulated) -> None:
    attend(chosen, **CALL)
    assert phases(gpu) == [
        *PLANNED,
        ("forward", "blocks"),
        ("backward_rows", "none"),
        *PLANNED,
        ("backward", "blocks"),
        ("backward_sums", "none"),
    ]


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_consumers_are_told_of_their_own_blocks(phase: str, chosen: Bundle, gpu: Emulated) -> None:
    """Every block that the table allows is in a run that is for those who have it, and no other."""
    attend(chosen, **CALL)
    (launch,) = (found for found in gpu.launches if found.code.phase == phase)
    assert launch.code.tile == ((128, 64) if phase == "forward" else (64, 128))
    table = TABLE if phase == "forward" else TABLE.mT  # by outer blocks
    assert {*runs_of(told(launch), -(-table.shape[1] // 2))} == {
        (head, outer // 2, outer % 2, inner) for head, outer, inner in torch.nonzero(table).tolist()
    }


def runs_of(given: dict[str, Any], outer_tiles: int) -> list[tuple[int, int, int, int]]:
    """Head, outer tile, consumer and inner tile of all that a table says, each once."""
    rows = 2 * outer_tiles
    offsets = tensor_at(given["offsets"], "i32", rows + 1).tolist()
    starts, stops, kinds = (
        tensor_at(given[name], "i32", offsets[-1]).tolist() for name in ("starts", "stops", "kinds")
    )
    return [
        (row // outer_tiles, row % outer_tiles, group, tile)
        for row in range(rows)
        for run in range(offsets[row], offsets[row + 1])
        for tile in range(starts[run], stops[run])
        for group in range(2)
        if kinds[run] >> 2 & 1 << group
    ]


def test_where_queries_begin_within_a_block_the_mask_is_looked_at(
    chosen: Bundle, gpu: Emulated
) -> None:
    attend(chosen, q_offset=HALF, **CALL)
    assert ("forward", "blocks") in phases(gpu) and ("backward", "blocks") in phases(gpu)
    gpu.launches.clear()
    attend(chosen, q_offset=HALF // 2, **CALL)
    assert not any("blocks" in plan for _, plan in phases(gpu))


def test_a_bundle_says_which_kernels_skip_blocks(chosen: Bundle) -> None:
    lines = [line for line in describe(chosen).splitlines() if "of each half of a tile" in line]
    assert [line.split()[0] for line in lines] == ["forward:", "backward:"]


def test_a_launcher_in_c_looks_at_the_mask(chosen: Bundle) -> None:
    text = chosen.bytes_of("chosen.c").decode()
    assert "kinds" not in text and "forward" in text


@pytest.mark.parametrize(
    ("size", "target", "dim", "phases_of_blocks"),
    [
        (64, "cuda:90", 128, {"forward", "backward"}),
        (64, "cuda:90", 64, {"forward"}),
        (64, "cuda:80", 128, set()),
        (32, "cuda:90", 128, set()),
        (128, "cuda:90", 128, set()),
    ],
)
def test_who_has_such_kernels(size: int, target: str, dim: int, phases_of_blocks: set[str]) -> None:
    variant = fx.variant("any", mask=stdlib.block_table(TABLE, size))
    shape = Shape(parse_target(target), "bf16", dim, dim)
    (planned,) = plan_builds([variant], [shape], ["forward", "backward"], {})
    found = {j.phase.value for j in planned.jobs.values() for k, _ in j.candidates if _skips(k)}
    assert found == phases_of_blocks


def _skips(kernel: Kernel) -> bool:
    return plan_kind(kernel) == "blocks"
