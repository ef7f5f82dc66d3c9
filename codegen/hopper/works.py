"""Works of a program that stays: how the producer finds them and tells the consumers.

A work is one query tile of one head. A multiprocessor has one program at a time, which takes works
until none is left: its first one by its own number, the others from a counter that all programs
share, so that who is done early takes more. The producer alone knows what is to be done. It leaves
notes in shared memory: with the queries which work they are of, with each tile of keys which tile
that is. While the consumers end a work, it brings the queries and the first keys of the next one.
What is computed for a tile is for the file of each kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..factors import score_products
from ..kernel import KernelSpec
from ..writer import Block
from .mask_bits import BITS_TILE

NEXT_WORK = "next_work"  # the counter
_NONE, _MASKED, _MORE = -1, 2, 1

NOTES = '''\
@gluon.jit
def notes(COUNT: gl.constexpr):
    """COUNT integers in shared memory."""
    layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, order=[0])
    return gl.allocate_shared_memory(gl.int32, [COUNT, 1], layout)


@gluon.jit
def leave(note, number):
    """Write a note; one warp does."""
    note.store(gl.full([1], number, gl.int32, gl.BlockedLayout([1], [32], [1], [0])))


@gluon.jit
def read(note):
    """The number in a note; a warpgroup does."""
    return gl.max(note.load(gl.BlockedLayout([1], [32], [4], [0])), 0)
'''

NAMES = ("work_notes", "tile_notes")


@dataclass(frozen=True)
class Works:
    """What a kernel keeps of its works in shared memory.

    Attributes:
        places: for the queries of works, and for their notes.
        names: of the numbers that the consumers are told of a work; `q_start`, the first one, is -1
            after the last work.
    """

    places: int
    names: tuple[str, ...]

    def note(self, number: int) -> str:
        """The source of the index of a number's note, at `query_place`."""
        first = f"query_place * {len(self.names)}"
        return f"{first} + {number}" if number else first


def works_of(spec: KernelSpec) -> Works:
    """Two places for queries where shared memory is large enough for them."""
    places = 2 if sum(p.dim for p in score_products(spec)) <= 160 else 1
    return Works(places, ("q_start", "b", "h", *((BITS_TILE,) if spec.mask_bits else ())))


def write_notes(block: Block, works: Works) -> None:
    """Write the allocation of the notes."""
    block.line(f"work_notes = notes({works.places * len(works.names)})")
    block.line("tile_notes = notes(STAGES)")


@contextmanager
def works_of_producer(block: Block, works: Works) -> Iterator[Block]:
    """Write the loop of the producer over works, numbered `program`; `at` counts tiles in it."""
    block.line("nth_work = 0\nat = 0\nprogram = gl.program_id(0)")
    with block.indented("while program < all_heads * q_tiles:") as body:
        yield body
        body.line("nth_work += 1")
        body.line("program += gl.num_programs(0)")
        with body.indented("if gl.num_programs(0) < all_heads * q_tiles:") as rest:
            rest.line(f"program = gl.num_programs(0) + gl.atomic_add({NEXT_WORK}, 1)")
    block.comment("No work is left.")
    _write_wait_free(block, works)
    block.line(f"leave(work_notes.index({works.note(0)}), {_NONE})")
    block.line("mbarrier.arrive(query_ready.index(query_place), count=1)")


def write_leave_work(block: Block, works: Works) -> None:
    """Write the wait for a place for the work's queries, `query_place`, and its notes."""
    _write_wait_free(block, works)
    for i, name in enumerate(works.names):
        block.line(f"leave(work_notes.index({works.note(i)}), {name})")


def write_leave_tile(block: Block, tile: str, masked: str, more: str) -> None:
    """Write the note of a tile at place `stage`.

    Args:
        masked: source of the bool that its mask is to be looked at; "" where it is not asked.
        more: source of the bool that it is not the work's last one.
    """
    bits = [f"{tile} * 4"]
    bits += [f"gl.where({masked}, {_MASKED}, 0)"] if masked else []
    block.line(f"leave(tile_notes.index(stage), {' + '.join(bits)} + gl.where({more}, {_MORE}, 0))")


@contextmanager
def works_of_consumer(block: Block, works: Works, groups: int) -> Iterator[Block]:
    """Write the loop of a consumer over works; `mine` is the place of its own 64 queries.

    `at` is the number of the tile at hand, counted through all works; the body counts.
    """
    block.line("nth_work = 0\nat = 0")
    _write_next_work(block, works)
    with block.indented("while q_start >= 0:") as body:
        for i, name in enumerate(works.names[1:], 1):
            body.line(f"{name} = read(work_notes.index({works.note(i)}))")
        body.line(f"mine = query_place * {groups} + GROUP")
        yield body
        if works.places == 1:
            body.line("tma.store_wait(0)")
            body.line("mbarrier.arrive(query_free.index(query_place), count=1)")
        body.line("nth_work += 1")
        _write_next_work(body, works)
    if works.places > 1:
        block.line("tma.store_wait(0)")


def write_free_place(block: Block, works: Works) -> None:
    """Write the wait for the stores of the work before: its queries' place is free then.

    With two places there is time for it until the scores of this work have been started.
    """
    if works.places > 1:
        with block.indented("if nth_work > 0:") as body:
            body.line("tma.store_wait(0)")
            body.line("mbarrier.arrive(query_free.index(1 - query_place), count=1)")


def write_read_tile(block: Block, *, masked: bool) -> None:
    """Write what the note at place `stage` says: `kv_tile`, `more`, and `masked` if asked."""
    block.line("note = read(tile_notes.index(stage))")
    block.line("kv_tile = note >> 2")
    block.line(f"more = note & {_MORE}")
    if masked:
        block.line(f"masked = note & {_MASKED}")


def _write_next_work(block: Block, works: Works) -> None:
    block.line(f"query_place = nth_work % {works.places}")
    block.line(f"mbarrier.wait(query_ready.index(query_place), nth_work // {works.places} & 1)")
    block.line(f"q_start = read(work_notes.index({works.note(0)}))")


def _write_wait_free(block: Block, works: Works) -> None:
    block.line(f"query_place = nth_work % {works.places}")
    block.line(f"mbarrier.wait(query_free.index(query_place), nth_work // {works.places} & 1 ^ 1)")
