"""Consumers that skip tiles: what each computes, in any interleaving, held against the mask.

The texts of the producer and of the consumers run on plain ints, with what `support/barriers.py`
has for shared memory. Nothing about time or memory of threads is found out this way.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flexdsl as fx
from flexdsl import stdlib
from flexdsl.analysis import make_plan
from flexdsl.codegen import Kernel, KernelSpec, Language, Phase
from flexdsl.codegen.unbound import GENERATORS
from flexdsl.ir import Kind
from flexdsl.mod import as_mod
from flexdsl.runtime import device_plan, mask_bits
from flexdsl.runtime.own_tiles import own_tiles
from flexdsl.runtime.run_table import to_device
from support.barriers import Array, Barrier, Nothing, Place, Products, Program
from tests.codegen.test_works import RUNS, Machine, Notes, Pointer, function_of, sizes_of
from tests.runtime.test_mask_bits import DEVICE, allowed_of, bound_of

ROWS, KEYS, BLOCK, HALF = 328, 700, 128, 64
ROW_BYTES = 256  # of 128 elements


def near(b: int, h: int, q: int, kv: int) -> Any:
    """A grid of 32 columns in tiles of 8 x 8, one after the other; three rows and columns away."""
    of_query, of_key = ((p // 256 * 8 + p % 64 // 8, p // 64 % 4 * 8 + p % 8) for p in (q, kv))
    return abs(of_query[0] - of_key[0]) <= 3 and abs(of_query[1] - of_key[1]) <= 3


MASKS = {
    "none": lambda b, h, q, kv: kv < 0,
    "tile order": near,
    "one of two": lambda b, h, q, kv: (q // 64 + kv // 128) % 2 == 0 and (q + kv) % 3 > 0,
    "with full ones": lambda b, h, q, kv: (q // 128 + kv // 128) % 3 == 0 or q // 64 == kv // 99,
    "first rows alone": lambda b, h, q, kv: q % 128 < 64 and (q + kv) % 5 > 0,
    "last rows alone": lambda b, h, q, kv: q % 128 >= 64 and (q + kv) % 5 > 0,
    "of some works": lambda b, h, q, kv: q // 64 % 3 == 1 and kv < 200,
    "scattered": lambda b, h, q, kv: (q // 64 * 7 + kv // 128 * 5) % 11 < 4,
}


@dataclass(frozen=True)
class Words:
    """Where the words of a consumer's bits are, as a number of words."""

    at: int = 0

    def __add__(self, steps: int | Nothing) -> Words:
        return Words(self.at + steps) if isinstance(steps, int) else self


@dataclass
class Consumer(Nothing):
    """The functions of Gluon that a consumer calls, and what it did in each work, by its start.

    Attributes:
        kept: where the words are that the tile at hand was masked by; 0 without words.
        words: the same of each tile of the work; None of those that were not masked.
    """

    products: Products = field(default_factory=Products)
    kept: int | None = None
    words: list[int | None] = field(default_factory=list[int | None])
    works: dict[int, Any] = field(default_factory=dict[int, Any])

    def load(self, at: Words, mask: bool = True, other: int = 0) -> Words | None:
        return at if mask else None

    def keep(self, scores: Any, words: Words, bit: Any, other: Any) -> Nothing:
        self.kept = words.at
        return Nothing()

    def where(self, condition: Any, a: Any, b: Any) -> Nothing:
        if isinstance(b, float) and b == -float("inf"):  # of scores that the mask does not allow
            self.kept = 0
        return Nothing()

    def softmax(self, *_: Any) -> list[Nothing]:
        self.words.append(self.kept)
        self.kept = None
        return [Nothing()] * 4

    def end(self, out: Any, at: list[int], place: Place) -> None:
        read = self.products.read
        assert read["key"] == read["value"], "weights meet the values of another tile"
        self.works[at[2]] = list(zip(read["key"], self.words, strict=True))
        read.clear()
        self.words = []

    def known(self, program: Program) -> dict[str, Any]:
        tma = SimpleNamespace(async_copy_shared_to_global=self.end, store_wait=lambda _: None)
        products = {"warpgroup_mma": self.products.start, "warpgroup_mma_wait": self.products.wait}
        others = {"softmax": self.softmax, "keep": self.keep}
        others |= {"spread": lambda words, *_: words, "counted": lambda number: number}
        others |= dict.fromkeys(("in_pairs", "fence_async_shared", "LN2"), Nothing())
        notes = {"read": program.notes.__getitem__}
        return {"gl": self, "tma": tma, "mbarrier": program, **products, **others, **notes}


class Alone(Machine):
    """What a producer calls, where there is one program."""

    def num_programs(self, axis: int) -> int:
        return 1


@cache
def kernel_of() -> Kernel:
    spec = KernelSpec(None, None, None, 128, 128, mask_bits=True, skips=True)
    return GENERATORS[Phase.FORWARD, Language.GLUON](spec)


@cache
def table_of(name: str) -> tuple[Any, dict[str, Any]]:
    """The bits of a mask's tiles, and the arguments of the producer."""
    plan = fx.plan(as_mod(MASKS[name], Kind.MASK), q_len=ROWS, kv_len=KEYS).tabulated
    own = own_tiles(plan)
    assert own is not None
    runs = to_device(own.table, plan.outer_tiles, DEVICE, own.kinds)
    launch = device_plan.launch_compiled
    table = mask_bits.with_bits(runs, plan, bound_of(plan), DEVICE, launch)
    arrays = {n: getattr(table, n).tolist() for n in (*RUNS, "first_bits", "kinds")}
    return allowed_of(table.mask_words, (BLOCK, BLOCK)), sizes_of(plan) | arrays


@cache
def kernel_of_blocks() -> Kernel:
    """The kernel that evaluates its mask; here that gives nothing."""
    mask = stdlib.block_table(np.eye(11, dtype=bool), HALF).program
    spec = KernelSpec(mask, None, None, 128, 128, skips=True)
    return GENERATORS[Phase.FORWARD, Language.GLUON](spec)


@cache
def arguments_of_blocks(name: str) -> dict[str, Any]:
    """The arguments of its producer, by a table that the device makes."""
    program = as_mod(MASKS[name], Kind.MASK).program
    plan = make_plan(program, ROWS, KEYS, tile=(BLOCK, HALF), device=str(DEVICE))
    launch = device_plan.launch_compiled
    table = device_plan.make_table(plan, program.values, DEVICE, launch, parts=2)
    return sizes_of(plan) | {n: getattr(table, n).tolist() for n in (*RUNS, "kinds")}


@cache
def pairs(name: str) -> Any:
    """A mask pair by pair, of whole tiles; nothing past the ends."""
    mask = as_mod(MASKS[name], Kind.MASK)
    dense = np.array([[bool(mask(0, 0, q, kv)) for kv in range(KEYS)] for q in range(ROWS)])
    return np.pad(dense, [(0, -ROWS % BLOCK), (0, -KEYS % BLOCK)])


def side(text: str, name: str, known: dict[str, Any], given: dict[str, Any]) -> Iterator[Any]:
    """A function of the kernel's text that stops where it waits, and after it arrives."""
    stops = re.sub(r"^( +)(mbarrier\.(wait|arrive)\()", r"\1yield \2", text, flags=re.MULTILINE)
    function = function_of(SimpleNamespace(source=stops), name, known)
    names = inspect.signature(function).parameters
    running: Iterator[Any] = function(*(given.get(n, Nothing()) for n in names))
    return running


def run(
    text: str, arguments: dict[str, Any], stages: int, seed: int, width: int = BLOCK
) -> list[Consumer]:
    """Both consumers after a program has done all works, in tiles of `width` keys."""
    program, consumers = Program(seed), [Consumer(), Consumer()]
    given: dict[str, Any] = {n: Notes(n) for n in ("work_notes", "tile_notes")}
    given |= {"BLOCK_M": BLOCK, "BLOCK_N": width, "STAGES": stages, "mask_words": Words()}
    for of, rows in (("query", HALF), ("key", width), ("value", width)):
        given |= {f"{of}_128": rows * ROW_BYTES, f"{of}_tiles_0": Array(lambda of=of: Place(of))}
        given |= {f"{of}_ready": Array(lambda: Barrier(1)), f"{of}_free": Array(lambda: Barrier(2))}
    for group, consumer in enumerate(consumers):
        known = consumer.known(program)
        program.sides[f"consumer {group}"] = side(text, "consumer", known, given | {"GROUP": group})
    numbers = {n: Pointer(x) if isinstance(x, list) else x for n, x in arguments.items()}
    numbers["next_work"] = Pointer([0])
    known = {"gl": Alone(0), "leave": program.notes.__setitem__, "mbarrier": program}
    program.sides["producer"] = side(text, "producer", known | {"tma": program}, given | numbers)
    program.run()
    return consumers


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("name", MASKS)
def test_consumers_compute_their_own_tiles(name: str, stages: int) -> None:
    bits, arguments = table_of(name)
    dense, source = pairs(name), kernel_of().source
    for seed in range(12):
        for group, consumer in enumerate(run(source, arguments, stages, seed)):
            assert sorted(consumer.works) == [q + group * HALF for q in range(0, ROWS, BLOCK)]
            for start, done in consumer.works.items():
                check(dense, start, done, bits[:, group * HALF : (group + 1) * HALF])


def check(dense: Any, start: int, done: list[tuple[int, int | None]], bits: Any) -> None:
    """A work's tiles, with their words, are those that the 64 rows from `start` have pairs in.

    Beside those there may be full ones.
    """
    rows = dense[start : start + HALF]
    work = dense[start // BLOCK * BLOCK :][: min(BLOCK, ROWS - start // BLOCK * BLOCK)]
    keys = [key for key, _ in done]
    assert len(set(keys)) == len(keys)
    live = {k for k in range(0, KEYS, BLOCK) if rows[:, k : k + BLOCK].any()}
    full = {k for k in range(0, KEYS, BLOCK) if work[:, k : k + BLOCK].all()}
    assert live <= set(keys) <= live | full
    for key, at in done:
        wanted = rows[:, key : key + BLOCK]
        if at is None:
            assert key in full
        else:
            np.testing.assert_array_equal(bits[at // (4 * BLOCK)], wanted)


@pytest.mark.parametrize("name", MASKS)
def test_consumers_that_evaluate_the_mask_compute_their_own_tiles(name: str) -> None:
    """No others: what is full for one of them may be empty for the other one."""
    dense, arguments = pairs(name), arguments_of_blocks(name)
    for seed in range(12):
        done = run(kernel_of_blocks().source, arguments, 2 + seed % 3, seed, HALF)
        for group, consumer in enumerate(done):
            assert sorted(consumer.works) == [q + group * HALF for q in range(0, ROWS, BLOCK)]
            for start, tiles in consumer.works.items():
                rows = dense[start : start + HALF]
                live = [k for k in range(0, KEYS, HALF) if rows[:, k : k + HALF].any()]
                assert sorted(key for key, _ in tiles) == live
                of_rows = rows[: max(ROWS - start, 0)]
                for key, masked in tiles:
                    assert masked == 0 or of_rows[:, key : key + HALF].all()


def test_works_of_which_a_consumer_has_nothing() -> None:
    """Of the first work the first one, of the second work both, of the third work the last one."""
    arguments = arguments_of_blocks("of some works")
    first, last = run(kernel_of_blocks().source, arguments, 2, seed=0, width=HALF)
    assert [len(first.works[q]) for q in (0, 128, 256)] == [0, 0, 4]
    assert [len(last.works[q]) for q in (64, 192, 320)] == [4, 0, 0]


def test_full_tiles_of_one_consumer_are_not_masked() -> None:
    arguments = arguments_of_blocks("of some works")
    first, last = run(kernel_of_blocks().source, arguments, 2, seed=0, width=HALF)
    for tiles in (first.works[256], last.works[64]):  # masked ones come first
        assert tiles == [(192, 0), (0, None), (64, None), (128, None)]


def test_tiles_are_skipped() -> None:
    _, arguments = table_of("tile order")
    counts = [
        sum(map(len, c.works.values())) for c in run(kernel_of().source, arguments, 2, seed=0)
    ]
    every = sum(np.subtract(arguments["stops"], arguments["starts"]))
    assert max(counts) < 0.8 * every


WITHOUT = {  # lines of the way past a tile that is not the consumer's own
    "the wait for its values": ("mbarrier.wait(value_ready", "arrived twice"),
    "the release of its keys' place": ("mbarrier.arrive(key_free", "all wait for each other"),
}


@pytest.mark.parametrize("line", WITHOUT)
def test_what_goes_wrong_without_a_line_is_found(line: str) -> None:
    begins, message = WITHOUT[line]
    before, loop, after = kernel_of().source.partition("while (own == 0) & (after != 0):")
    text = before + loop + re.sub(rf" +{re.escape(begins)}.*\n", "", after, count=1)
    with pytest.raises(AssertionError, match=message):
        for seed in range(12):
            run(text, table_of("one of two")[1], 2, seed)


def test_places_of_works_without_a_tile_are_given_back() -> None:
    """Consumers that have no tile of a work free the place of the work before, too."""
    free = "        if unfreed > 0:\n            tma.store_wait(0)\n"
    before, _, after = kernel_of_blocks().source.rpartition(free)
    text = before + after.partition("\n")[2]
    with pytest.raises(AssertionError, match="all wait for each other"):
        run(text, arguments_of_blocks("none"), 2, seed=0, width=HALF)
