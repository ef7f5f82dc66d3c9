"""What the producer of a Hopper kernel tells the consumers, held against the plan.

Its text is Python: it runs here on plain ints, with a machine whose copies and barriers do nothing,
and what it writes down is compared. Nothing about time or memory is found out this way.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import flexdsl as fx
from flexdsl.analysis import BlockPlan
from flexdsl.aot.specs import Shape, job_of
from flexdsl.aot.targets import parse_target
from flexdsl.codegen import Kernel, KernelSpec, Phase, Role
from flexdsl.codegen.hopper.works import FULL, MASKED, NOTHING
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.ir import Kind
from flexdsl.mod import as_mod
from flexdsl.runtime import device_plan, mask_bits
from flexdsl.runtime.run_table import table_of_kernel, to_device
from flexdsl.runtime.tuning import Config
from support.on_ints import Functions
from tests.runtime.test_mask_bits import DEVICE, allowed_of, bound_of

Note = int | tuple[int, int]
RUNS = ("offsets", "full_ends", "starts", "stops", "order")
ROWS, KEYS, PROGRAMS = 1024, 960, 3
SHAPE = Shape(parse_target("cuda:90"), "bf16", 128, 128)
MASKS = {
    "all": None,
    "none": lambda b, h, q, kv: kv < 0,
    "causal": fx.stdlib.causal(),
    "window": fx.stdlib.sliding_window(200),
    "sinks": fx.stdlib.attention_sink(4, 300),
    "grid": fx.stdlib.neighborhood((32, 32), 7),
    "strided": fx.stdlib.strided(300),
    "strided both ways": lambda b, h, q, kv: (q - kv) % 333 == 5,
    "strided blocks": lambda b, h, q, kv: q >= kv and (kv // 64 + 1) % 5 == 0,
    "strided heads": fx.stdlib.strided_heads(64, 2, 5, 4),
    "class token": fx.stdlib.timesformer_spatial(270),
    "summaries": fx.stdlib.sparse_fixed(384, 40, 2),
    "stripes": fx.stdlib.grid_2d((32, 32), (8, 8)),
    "every third": lambda b, h, q, kv: (q // 128 + kv // 128) % 3 == 0,
}


@dataclass(frozen=True)
class Pointer:
    """Some place in an array."""

    numbers: list[int]
    place: int = 0

    def __add__(self, steps: int) -> Pointer:
        return Pointer(self.numbers, self.place + steps)


class Idle:
    """Whatever is asked of it, it does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: Idle()


@dataclass
class Machine(Functions):
    """The functions of Gluon that producers call, for one of several programs."""

    program: int
    constexpr: Any = field(default=lambda value: value)

    def program_id(self, axis: int) -> int:
        return self.program

    def num_programs(self, axis: int) -> int:
        return PROGRAMS

    def load(self, at: Pointer, mask: bool = True, other: int = 0) -> int:
        return at.numbers[at.place] if mask else other

    def store(self, at: Pointer, number: int) -> None:
        at.numbers[at.place] = number

    def atomic_add(self, at: Pointer, number: int, sem: str) -> int:
        at.numbers[at.place] += number
        return at.numbers[at.place] - number


@dataclass
class Notes:
    """Notes in shared memory, by their name."""

    name: str

    def index(self, place: int) -> tuple[str, int]:
        return self.name, place


def function_of(kernel: Kernel, name: str, known: dict[str, Any]) -> Any:
    """A function of a kernel's text, as one of Python."""
    found = re.search(rf"^def {name}\(.*?(?=\n\n\n)", kernel.source, re.DOTALL | re.MULTILINE)
    assert found is not None
    text = re.sub(r": gl\.constexpr|\.to\(gl\.int(32|64)\)", "", found[0])
    exec(text, known)
    return known[name]


# Notes that a work has, of which the first one says where it begins; with bits there is one more.
NUMBERS = {"forward": 3, "backward": 5}


def notes_of(
    kernel: Kernel,
    config: Config,
    arguments: dict[str, Any],
    bits: dict[int, int] | None = None,
) -> Iterator[Note]:
    """What the producers of all programs leave, in order: a tile, or where a work begins.

    Args:
        bits: gets the tile of bits of each work's first tile, by where it begins.
    """
    counter = Pointer([0])
    numbers = NUMBERS[kernel.entry] + (bits is not None)
    for program in range(PROGRAMS):
        left: list[Note] = []

        def leave(note: tuple[str, int], number: int, left: list[Note] = left) -> None:
            name, place = note
            if name == "tile_notes":
                left.append((number >> 2, number & 3))
            elif place % numbers == 0:
                left.append(number)
            elif bits is not None and place % numbers == numbers - 1:
                *_, start = (note for note in left if isinstance(note, int))
                bits[start] = number

        run_producer(kernel, config, arguments | {"next_work": counter}, program, leave)
        assert left.pop() == -1  # no work is left
        yield from left
    assert counter.numbers == [0]  # as it was found


def run_producer(
    kernel: Kernel,
    config: Config,
    arguments: dict[str, Any],
    program: int,
    leave: Callable[[tuple[str, int], int], None],
) -> None:
    """Run the producer of one program."""
    idle = dict.fromkeys(("mbarrier", "tma"), Idle())
    known: dict[str, Any] = {"gl": Machine(program), "leave": leave, **idle}
    for helper in ("tile_range", "stretch_ends", "tile_from", "floor_mod"):
        if f"def {helper}(" in kernel.source:
            function_of(kernel, helper, known)
    producer = function_of(kernel, "producer", known)
    given = arguments | {n: Notes(n) for n in ("work_notes", "tile_notes")}
    given |= {"BLOCK_M": config.block_m, "BLOCK_N": config.block_n}
    given["STAGES"] = config.num_stages
    producer(*(given.get(name, Idle()) for name in inspect.signature(producer).parameters))


def works_of(notes: Iterator[Note]) -> dict[int, list[tuple[int, int]]]:
    """The tiles of each work, by where it begins; its own note comes before or after its first."""
    starts: list[int] = []
    works: list[list[tuple[int, int]]] = [[]]
    for note in notes:
        if isinstance(note, int):
            starts.append(note)
        else:
            works[-1].append(note)
            works += [[]] if note[1] == NOTHING else []
    assert works.pop() == []
    return dict(zip(starts, works, strict=True))


def sizes_of(plan: BlockPlan) -> dict[str, Any]:
    """The sizes of a call of one head."""
    sizes = {"q_len": plan.q_len, "kv_len": plan.kv_len, "q_offset": 0, "heads": 1}
    sizes |= {"row_stride": plan.q_len}
    sizes |= dict.fromkeys(("all_heads", "part_heads", "group", "result_heads", "members"), 1)
    sizes |= dict.fromkeys(("first_head", "member", "left_tiles"), 0)
    sizes |= dict.fromkeys(("table_stride_b", "table_stride_h"), 0)
    return sizes | {"q_tiles": plan.q_tiles, "kv_tiles": plan.kv_tiles}


def arrays_of(plan: BlockPlan) -> dict[str, Any]:
    """The arrays that a kernel reads of a plan by its table."""
    table = to_device(table_of_kernel(plan.tabulated), plan.outer_tiles, DEVICE)
    return {n: Pointer(getattr(table, n).tolist()) for n in RUNS}


@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.BACKWARD])
@pytest.mark.parametrize("name", MASKS)
def test_the_producer_tells_of_all_live_tiles(name: str, phase: Phase) -> None:
    mask = None if MASKS[name] is None else as_mod(MASKS[name], Kind.MASK)
    program = None if mask is None else mask.program
    job = job_of(phase, program, None, SHAPE)
    kernel, config = job.candidates[0]
    plan = fx.plan(mask, q_len=ROWS, kv_len=KEYS, tile=config.tile)
    forward = phase is Phase.FORWARD
    along = plan if forward else plan.transposed()
    arguments = sizes_of(plan)
    parameters = (a for a in kernel.arguments if a.role is Role.PARAMETER)
    arguments |= {a.name: program.values[a.of] for a in parameters if program is not None}
    if any(a.role is Role.TABLE for a in kernel.arguments):
        arguments |= arrays_of(along)
    works = works_of(notes_of(kernel, config, arguments))
    outer, inner = config.tile if forward else reversed(config.tile)
    length, others = (ROWS, KEYS) if forward else (KEYS, ROWS)
    assert sorted(works) == list(range(0, length, outer))
    for start, tiles in works.items():
        i = start // outer
        kinds = {
            j: plan.tile(0, 0, *((i, j) if forward else (j, i))) for j in range(-(-others // inner))
        }
        live = [j for j, kind in kinds.items() if kind != "empty"]
        if live:
            assert sorted(j for j, _ in tiles) == live
        else:
            assert len(tiles) == 1  # one whose pairs are all masked away
        cut = not forward and start + outer > length
        for (_, after), (j, _) in pairwise(tiles):
            whole = kinds[j] == "full" and (j + 1) * inner <= others and not cut
            assert after == (FULL if whole else MASKED)
        assert tiles[-1][1] == NOTHING


@cache
def pairs(name: str) -> Any:
    """A mask pair by pair, bool [520, 440]."""
    mask = as_mod(MASKS[name], Kind.MASK)
    return np.array([[bool(mask(0, 0, q, kv)) for kv in range(440)] for q in range(520)])


@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.BACKWARD])
@pytest.mark.parametrize("name", ["none", "causal", "grid", "every third"])
@pytest.mark.parametrize(("dim", "value_dim"), [(d, d) for d in (64, 96, 128, 256)] + [(192, 128)])
def test_consumers_come_to_the_bits_of_their_tiles(
    dim: int, value_dim: int, name: str, phase: Phase
) -> None:
    """A work's first tile has those that its notes say, and each masked one after it the next."""
    forward, dense = phase is Phase.FORWARD, pairs(name)
    shape = replace(SHAPE, head_dim=dim, value_dim=value_dim)
    config = job_of(phase, None, None, shape).candidates[0][1]
    lengths = {"q_len": len(dense), "kv_len": len(dense[0])}
    plan = fx.plan(as_mod(MASKS[name], Kind.MASK), **lengths, tile=config.tile)
    along = (plan if forward else plan.transposed()).tabulated
    runs = to_device(table_of_kernel(along), along.outer_tiles, DEVICE)
    launch = device_plan.launch_compiled
    table = mask_bits.with_bits(runs, along, bound_of(along), DEVICE, launch)
    spec = KernelSpec(None, None, None, dim, value_dim, consumers=config.consumers, mask_bits=True)
    kernel, begins = GENERATORS[phase, config.language](spec), dict[int, int]()
    arrays = {n: Pointer(getattr(table, n).tolist()) for n in (*RUNS, "first_bits")}
    works = works_of(notes_of(kernel, config, sizes_of(plan) | arrays, begins))
    outer, inner = config.tile if forward else config.tile[::-1]
    dense = dense if forward else dense.T
    # Rows past the end may have anything in the forward pass; keys past the end may in neither.
    looked_at = len(dense) if forward else None
    ends = [-size % block for size, block in zip(dense.shape, (outer, inner), strict=True)]
    dense = np.pad(dense, [(0, ends[0]), (0, ends[1])])
    bits = allowed_of(table.mask_words, (outer, inner))
    assert sorted(works) == sorted(begins) == list(range(0, len(dense), outer))
    for start, tiles in works.items():
        at, kind = begins[start], MASKED
        for tile, after in tiles:
            found = bits[at] if kind == MASKED else np.ones((outer, inner), bool)
            wanted = dense[start:looked_at, tile * inner : (tile + 1) * inner][:outer]
            np.testing.assert_array_equal(found[: len(wanted)], wanted)
            at, kind = at + 1, after


BATCH, HEADS = 2, 5  # more than stand side by side
OF_HEADS = {
    "alike": lambda b, h, q, kv: (q + kv) % 3 == 0 and (q // 128 == 3 or abs(q - kv) < 99),
    "each its own": lambda b, h, q, kv: (
        (q + kv) % 3 == 0 and (q // 128 == h or kv // 128 == 7 - h or abs(q - kv) < 99 * h)
    ),
    "and each batch": lambda b, h, q, kv: (
        (q + kv) % 3 == 0 and ((q // 128 + 2 * b) % 5 == h or abs(q - kv) < 99 * h)
    ),
}


@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.BACKWARD])
@pytest.mark.parametrize("name", OF_HEADS)
def test_every_outer_tile_of_every_head_is_a_work_once_the_longest_first(
    name: str, phase: Phase
) -> None:
    mask = fx.mask_mod(OF_HEADS[name])
    kernel, config = job_of(phase, mask.program, None, SHAPE).candidates[0]
    plan = fx.plan(mask, ROWS, KEYS, batch=BATCH, heads=HEADS, tile=config.tile)
    forward = phase is Phase.FORWARD
    along = plan if forward else plan.transposed()
    assert along.depends_on_head == (name != "alike")
    assert along.depends_on_batch == (name == "and each batch")
    arguments = sizes_of(plan) | arrays_of(along) | {"heads": HEADS, "result_heads": HEADS}
    arguments |= dict.fromkeys(("all_heads", "part_heads"), BATCH * HEADS)
    stride = along.outer_tiles if along.depends_on_head else 0
    arguments["table_stride_h"] = stride
    arguments["table_stride_b"] = HEADS * stride if along.depends_on_batch else 0
    outer = config.tile[0 if forward else 1]
    length_of = {
        (b, h, i): sum(kind != "empty" for kind in kinds_of(plan, b, h, i, forward))
        for b, h, i in np.ndindex(BATCH, HEADS, along.outer_tiles)
    }
    works = []
    counter = Pointer([0])
    for program in range(PROGRAMS):
        of_program = heads_and_tiles(kernel, config, arguments | {"next_work": counter}, program)
        for b, h in {work[:2] for work in of_program}:
            lengths = [length_of[(*w[:2], w[2] // outer)] for w in of_program if w[:2] == (b, h)]
            assert all(b < 1.25 * a or b == 0 for a, b in pairwise(lengths))
        works += of_program
    everything = np.ndindex(BATCH, HEADS, along.outer_tiles)
    assert sorted(works) == [(b, h, i * outer) for b, h, i in everything]


def kinds_of(plan: BlockPlan, b: int, h: int, outer: int, forward: bool) -> list[str]:
    """What the tiles of an outer tile are."""
    if forward:
        return [plan.tile(b, h, outer, j) for j in range(plan.kv_tiles)]
    return [plan.tile(b, h, i, outer) for i in range(plan.q_tiles)]


def heads_and_tiles(
    kernel: Kernel, config: Config, arguments: dict[str, Any], program: int
) -> list[tuple[int, int, int]]:
    """Batch, head and first position of each work of a program, in order."""
    notes: list[int] = []

    def leave(note: tuple[str, int], number: int) -> None:
        if note[0] == "work_notes":
            notes.append(number)

    run_producer(kernel, config, arguments, program, leave)
    numbers = NUMBERS[kernel.entry]
    starts, batches, heads = (notes[:-1][place::numbers] for place in range(3))
    return list(zip(batches, heads, starts, strict=True))
