"""The producer and the consumers of a Hopper backward kernel, in any interleaving.

Their texts run on plain ints, with what `support/barriers.py` has for shared memory. A tensor is
the tiles that it was made of: looked at are those of each product, of what is added to the sums of
dQ and where, and of dK and dV, held against the mask. Nothing about time, memory of threads or
numbers is found out this way.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flexdsl as fx
from flexdsl.codegen import Kernel, KernelSpec, Language, Phase
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.ir import Kind
from flexdsl.mod import as_mod
from flexdsl.runtime import device_plan, mask_bits
from flexdsl.runtime.run_table import table_of_kernel, to_device
from support.barriers import (
    Array,
    Barrier,
    Nothing,
    Place,
    Products,
    Program,
    Sources,
    sources_of,
)
from tests.codegen.test_query_sums import PARTS, STRIDES
from tests.codegen.test_skipped_tiles import MASKS, Alone
from tests.codegen.test_works import RUNS, Notes, Pointer, function_of, sizes_of
from tests.runtime.test_mask_bits import DEVICE, allowed_of, bound_of

ROWS, KEYS = 328, 340
VALUES = {64: 64, 128: 128, 192: 128, 256: 256}  # Dv by D
TILES = {64: (128, 128, 3), 128: (64, 128, 3), 192: (64, 64, 3), 256: (64, 64, 2)}  # and stages
BEFORE = 1 << 20  # added to the first key where it is of a result that was there before
COPIED = ("query", "d_out", "lse_log2", "delta")  # what comes with each tile of rows
FLOATS = r"tile\.to\(gl\.int64\) \* (\d+) "  # of a unit of `add_query_sums`


class Checked(Products):
    """Products whose operands are of one tile of rows."""

    def start(self, left: Any, right: Place, into: Any, **options: Any) -> Nothing:
        rows_of(sources_of(left) | sources_of(right))
        return super().start(left, right, into, **options)


def rows_of(sources: Sources) -> set[int]:
    """The tile of rows, if any, that something was made of."""
    rows = {row for of, row in sources if of in COPIED}
    assert len(rows) < 2, f"of two tiles: {sorted(sources)}"
    return rows


@dataclass(frozen=True)
class Floats:
    """Where sums or words are: an array, and how many numbers come before."""

    of: str
    at: int = 0

    def __add__(self, steps: int | Nothing) -> Floats:
        return Floats(self.of, self.at + steps) if isinstance(steps, int) else self


class Out(Nothing):
    """A descriptor of dK or dV: which of them it is, and the bytes of a tile."""

    def __init__(self, of: str, nbytes: int) -> None:
        self.of, self.nbytes = of, nbytes


class Consumer(Nothing):
    """The functions of Gluon that a consumer calls, and what it did.

    Attributes:
        unit: floats that `add_query_sums` counts in.
        added: what was added to sums: the half, the first float, and what it was made of.
        results: what dK and dV were made of, by their name and first key.
    """

    def __init__(self, program: Program, unit: int) -> None:
        self.program, self.unit, self.products = program, unit, Checked()
        self.added: list[tuple[str, int, Sources]] = []
        self.results: dict[tuple[str, int], Sources] = {}

    def load(self, at: Floats, mask: bool = True, other: int = 0) -> Nothing:
        return Nothing(frozenset({(at.of, at.at)}) if mask else frozenset())

    def add(self, sums: Floats, tile: int, order: Any, values: Nothing) -> None:
        self.added.append((sums.of, tile * self.unit + sums.at, values.sources))

    def end(self, out: Out, at: list[int], place: Place) -> None:
        self.results[out.of, at[2]] = place.sources
        self.program.async_copy_shared_to_global(out, at, place)

    def copy(self, out: Out, at: list[int], ready: Barrier, place: Place) -> None:
        before = [*at[:2], at[2] + BEFORE]
        self.program.async_copy_global_to_shared(out.nbytes, before, ready, place)

    def known(self) -> dict[str, Any]:
        tma = SimpleNamespace(
            async_copy_shared_to_global=self.end,
            async_copy_global_to_shared=self.copy,
            store_wait=self.program.store_wait,
        )
        known: dict[str, Any] = {"gl": self, "tma": tma, "mbarrier": self.program}
        known |= {"warpgroup_mma": self.products.start, "warpgroup_mma_wait": self.products.wait}
        known |= {"warpgroup_mma_init": lambda x: x, "counted": lambda n: n, "LN2": Nothing()}
        known |= {"add_query_sums": self.add, "spread": lambda words, *_: words}
        known |= {"fence_async_shared": lambda: None, "read": self.program.notes.__getitem__}
        return known


@cache
def kernel_of(dim: int) -> Kernel:
    spec = KernelSpec(None, None, None, dim, VALUES[dim], mask_bits=True)
    return GENERATORS[Phase.BACKWARD, Language.GLUON](spec)


@cache
def table_of(name: str, tile: tuple[int, int]) -> tuple[Any, dict[str, Any]]:
    """The bits of a mask's tiles, and the arguments of the producer."""
    plan = fx.plan(as_mod(MASKS[name], Kind.MASK), q_len=ROWS, kv_len=KEYS, tile=tile)
    along = plan.transposed().tabulated
    launch = device_plan.launch_compiled
    runs = to_device(table_of_kernel(along), along.outer_tiles, DEVICE)
    table = mask_bits.with_bits(runs, along, bound_of(along), DEVICE, launch)
    arrays = {n: getattr(table, n).tolist() for n in (*RUNS, "first_bits")}
    return allowed_of(table.mask_words, tile[::-1]), sizes_of(plan) | arrays


@cache
def pairs(name: str) -> Any:
    """A mask key by key, bool [keys, queries] of whole tiles; nothing past the ends."""
    mask = as_mod(MASKS[name], Kind.MASK)
    dense = np.array([[bool(mask(0, 0, q, kv)) for q in range(ROWS)] for kv in range(KEYS)])
    return np.pad(dense, [(0, -KEYS % 128), (0, -ROWS % 128)])


STOPS = r"^( +)(mbarrier\.(wait|arrive)|tma\.store_wait)\("


def side(text: str, name: str, known: dict[str, Any], given: dict[str, Any]) -> Iterator[Any]:
    """A function of the kernel's text that stops where it waits, and after it arrives."""
    stops = re.sub(STOPS, r"\1yield \2(", text, flags=re.MULTILINE)
    function = function_of(SimpleNamespace(source=stops), name, known)
    running: Iterator[Any] = function(*(given[n] for n in inspect.signature(function).parameters))
    return running


def shared_of(kernel: Kernel, place: Callable[[str], Any]) -> dict[str, Any]:
    """What is in shared memory, by the names that the kernel's text has for it.

    Args:
        place: makes a place of a tensor's tiles.
    """
    given: dict[str, Any] = {n: Notes(n) for n in ("work_notes", "tile_notes")}
    for name in re.findall(r"^    (\w+) = gl\.allocate_shared_memory", kernel.source, re.M):
        of = re.sub(r"_tiles(_\d)?$|_of_rows$", "", name)
        given[name] = Array(lambda of=of: place(of))
    for name, arrivals in re.findall(r"^    (\w+) = barriers\(\w+, (\d)\)", kernel.source, re.M):
        given[name] = Array(lambda arrivals=int(arrivals): Barrier(arrivals))
    return given


def run(dim: int, mask: str, seed: int, member: int = 0, text: str = "") -> list[Consumer]:
    """Both consumers after a program has done all works.

    Args:
        member: the number of the query head, of two that share a key head.
        text: what is run in place of the kernel's text; "" for that.
    """
    kernel, (rows, keys, stages) = kernel_of(dim), TILES[dim]
    text, program = text or kernel.source, Program(seed)
    given = shared_of(kernel, Place) | {"BLOCK_M": rows, "BLOCK_N": keys, "STAGES": stages}
    given |= {"mask_words": Floats("bits"), "next_work": Pointer([0]), "scale": 1.0}
    given |= {f"{half}_sums": Floats(half) for half in ("left", "right")}
    numbers = table_of(mask, (rows, keys))[1] | {"member": member, "members": 2, "row_stride": 0}
    given |= {n: Pointer(x) if isinstance(x, list) else x for n, x in numbers.items()}
    given |= {"left_tiles": given["q_tiles"]}
    for a in kernel.arguments:
        if a.rows and a.of in ("lse_log2", "delta"):
            given[a.name] = rows * 4
        elif a.rows:
            nbytes = (a.rows if isinstance(a.rows, int) else rows) * a.index * 2
            given[a.name] = Out(a.of, nbytes) if a.of in ("d_key", "d_value") else nbytes
    known = {"gl": Alone(0), "leave": program.notes.__setitem__, "mbarrier": program}
    program.sides["producer"] = side(text, "producer", known | {"tma": program}, given)
    (unit,) = re.findall(FLOATS, kernel.source)
    consumers = [Consumer(program, int(unit)) for _ in range(2)]
    names = re.findall(r"^def (consumer\w*)", kernel.source, re.M)
    for group, consumer in enumerate(consumers):
        own = given | {"GROUP": group}
        function = side(text, names[group % len(names)], consumer.known(), own)
        program.sides[f"consumer {group}"] = function
    program.run()
    return consumers


@pytest.mark.parametrize("member", [0, 1])
@pytest.mark.parametrize("dim", TILES)
@pytest.mark.parametrize("mask", MASKS)
def test_sums_and_results(mask: str, dim: int, member: int) -> None:
    for seed in range(6):
        consumers = run(dim, mask, seed, member)
        for start in range(0, KEYS, TILES[dim][1]):
            check_work(dim, mask, start, consumers, member)


def check_work(dim: int, mask: str, start: int, consumers: list[Consumer], member: int) -> None:
    """What was added up for the keys from `start` on is of the right tiles, and only of those."""
    rows, keys, _ = TILES[dim]
    firsts = range(start, start + keys, 64)  # keys whose dK and dV are a result each
    of_work = {(of, first) for of in ("key", "value") for first in firsts}
    found: dict[str, dict[int, Sources]] = {"left": {}, "right": {}}
    for half, at, sources in (x for c in consumers for x in c.added if of_work & x[2]):
        assert at not in found[half], "a part of a tile's sums is added twice"
        found[half][at] = sources
    tiles = live_tiles(mask, start, rows, keys, found["left"].get(0))
    product = 8192 if dim == 256 else 4096
    for half, parts, stride in zip(found, PARTS[dim], STRIDES[dim], strict=True):
        wanted = {i * stride + n: i for i in tiles for n in range(0, parts * 4096, product)}
        assert found[half].keys() == wanted.keys()
        for at, sources in found[half].items():
            bits = {x for x in sources if x[0] == "bits"}
            assert sources - bits == of_work | {(of, wanted[at] * rows) for of in COPIED}
            check_bits(mask, start, wanted[at], (keys, rows), bits)
    for first in firsts:
        check_results(first, tiles, rows, consumers, member)


def live_tiles(mask: str, start: int, rows: int, keys: int, first: Sources | None) -> list[int]:
    """The row tiles with a pair; the first one where no tile has any."""
    dense = pairs(mask)[start : start + keys]
    live = [i for i in range(-(-ROWS // rows)) if dense[:, i * rows : (i + 1) * rows].any()]
    return live if live or first is None else [0]


def check_bits(mask: str, start: int, tile: int, sizes: tuple[int, int], bits: set[Any]) -> None:
    """The words of a tile are those of its pairs; there are none where it is full."""
    keys, rows = sizes
    wanted = pairs(mask)[start : start + keys, tile * rows : (tile + 1) * rows]
    if not bits:
        assert wanted.all()
        return
    table = table_of(mask, (rows, keys))[0]
    for group, (_, at) in enumerate(sorted(bits)):
        number, rest = divmod(at // (2 * rows), keys // 64)
        assert rest == group
        found = table[number][group * 64 : (group + 1) * 64]
        np.testing.assert_array_equal(found, wanted[group * 64 : (group + 1) * 64])


def check_results(
    first: int, tiles: list[int], rows: int, consumers: list[Consumer], member: int
) -> None:
    """dK and dV of 64 keys are made of all tiles that see them, and of what was there before."""
    results = {n: x for c in consumers for n, x in c.results.items()}
    made_of = {"d_value": {"query", "lse_log2", "d_out"}, "d_key": set(COPIED)}
    for name, of_rows in made_of.items():
        of_keys = {"key"} if name == "d_value" else {"key", "value"}
        wanted = {(of, first) for of in of_keys} | {(of, i * rows) for of in of_rows for i in tiles}
        found = {x for x in results[name, first] if x[0] != "bits"}
        before = {x for x in found if x[1] >= BEFORE}
        assert found - before == wanted
        assert [row for _, row in before] == [first + BEFORE] * member


RACE, STUCK = "a place was taken|has not come|of two tiles", "all wait for each other"
WITHOUT = {  # lines of the wide kernel's consumers, and what goes wrong without them
    "the wait for dS of the tile before": (r"mbarrier\.wait\(d_scores_ready.*", RACE),
    "the wait for factors": (r"mbarrier\.wait\(factor_ready.*", RACE),
    "the wait for who reads keys": (r"mbarrier\.wait\(keys_read.*", RACE),
    "the wait for dV": (r"d_value_tile, left = warpgroup_mma_wait.*", RACE),
    "the end of stores": (r"tma\.store_wait.*", RACE),
    "the release of rows": (r"mbarrier\.arrive\(query_free.*", STUCK),
    "the release of keys": (r"mbarrier\.arrive\(key_free.*", STUCK),
}


@pytest.mark.parametrize("line", WITHOUT)
@pytest.mark.parametrize("dim", [192, 256])
def test_what_goes_wrong_without_a_line_is_found(dim: int, line: str) -> None:
    begins, message = WITHOUT[line]
    text, count = re.subn(rf"^ +{begins}\n", "", kernel_of(dim).source, flags=re.M)
    assert count > 0
    with pytest.raises(AssertionError, match=message):
        for seed in range(40):
            consumers = run(dim, "scattered", seed, text=text)
            for start in range(0, KEYS, 64):
                check_work(dim, "scattered", start, consumers, 0)
