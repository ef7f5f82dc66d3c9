"""Works of a program that stays: how the producer finds them and tells the consumers.

A work is one outer tile of one head: queries in the forward kernel, keys in the backward one. A
multiprocessor has one program at a time, which takes works until none is left: its first one by its
own number, the others from a counter that all programs share, so that who is done early takes more.
The producer alone knows what is to be done. It leaves notes in shared memory: with the outer tile
which work it is of, with each inner tile which one that is. While the consumers end a work, it
brings the first tiles of the next one. What is computed for a tile is for the file of each kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..writer import Block

NEXT_WORK = "next_work"  # the counter
# What comes after a tile in its work, as its note says. Masked tiles come before full ones.
NOTHING, FULL, MASKED = 0, 1, 2
_NO_WORK = -1
# Where consumers skip tiles, bit _GROUPS + g says that consumer g computes what comes after. In the
# forward kernel the notes of a work say that of its first tile.
LEADING = "leading"
_GROUPS, _MOST_GROUPS = 2, 3

NOTES = '''\
@gluon.jit
def counted(number):
    """A count, which is not negative: the compiler sees it, and quotients are shifts.

    It takes a register, which consumers have and the producer has not.
    """
    return number & 0x7FFFFFFF


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
    """The works of a kernel, and how it writes what both sides do with them.

    Attributes:
        count: source of how many there are.
        about: names of what the consumers know of a work. The first one is never negative, but
            for the note that no work is left.
        comes_with: the tensor whose tile a work's notes come with; `{}_ready` is the barrier of
            the arrival of its tiles, `{}_free` of their places' release.
        places: for such tiles, and for the notes of works.
        early: the next work is taken while the last tile of one is brought, not after it.
    """

    count: str
    about: tuple[str, ...]
    comes_with: str
    places: int
    early: bool

    @property
    def place(self) -> str:
        """The source of the place of the work at hand."""
        return f"{self.comes_with}_place" if self.places > 1 else "0"

    @property
    def ready(self) -> str:
        """The source of the barrier of the arrival of the tile at that place."""
        return f"{self.comes_with}_ready.index({self.place})"

    def write_notes(self, block: Block) -> None:
        """Write the allocation of the notes."""
        block.line(f"work_notes = notes({self.places * len(self.about)})")
        block.line("tile_notes = notes(STAGES)")

    @contextmanager
    def of_producer(self, block: Block) -> Iterator[Block]:
        """Write the producer's loop over works, `program` being their number.

        `at` is 0 before it and counts tiles through all works: the body counts, and lets each tile
        take the next work (`write_take`).
        """
        block.line("nth_work = 0\nat = 0\nprogram = gl.program_id(0)")
        with block.indented(f"while program < {self.count}:") as body:
            yield body
            if not self.early:
                self._write_take(body)
            body.line("nth_work += 1")
        block.comment("No work is left.")
        self._write_wait_free(block)
        block.line(f"leave({self._note(0)}, {_NO_WORK})")
        block.line(f"mbarrier.arrive({self.ready}, count=1)")

    def write_take(self, block: Block) -> None:
        """Write that the last tile of a work, `after` which there is nothing, takes the next work.

        It is for the start of what brings a tile: the counter answers while a place is waited for.
        On an H100 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26), forward, microseconds where the
        next work was taken at the end of this one, and so: causal 926 and 900, a window 280 and
        275. Which kernels have registers for it says `registers.py`.
        """
        if self.early:
            with block.indented(f"if after == {NOTHING}:") as end:
                self._write_take(end)

    def _write_take(self, block: Block) -> None:
        """Write which work is the next one."""
        block.line("program += gl.num_programs(0)")
        with block.indented(f"if gl.num_programs(0) < {self.count}:") as rest:
            # Relaxed, as nothing is read that another program wrote: fences took 800 cycles of it.
            rest.line(f'taken = gl.atomic_add({NEXT_WORK}, 1, sem="relaxed")')
            rest.line("program = gl.num_programs(0) + taken")
            with rest.indented(f"if taken == {self.count} - 1:") as last:
                last.comment("The last one to ask leaves the counter as it was found.")
                last.line(f"gl.store({NEXT_WORK}, 0)")

    def write_leave(self, block: Block) -> None:
        """Write the wait for a place for the work's tile, and its notes."""
        self._write_wait_free(block)
        for i, name in enumerate(self.about):
            block.line(f"leave({self._note(i)}, {name})")

    @contextmanager
    def of_consumer(self, block: Block) -> Iterator[Block]:
        """Write a consumer's loop over works; `at` is as the producer's."""
        block.line("nth_work = 0\nat = 0")
        self._write_next(block)
        with block.indented(f"while {self.about[0]} >= 0:") as body:
            for i, name in enumerate(self.about[1:], 1):
                body.line(f"{name} = read({self._note(i)})")
            yield body
            body.line("nth_work = counted(nth_work + 1)")
            self._write_next(body)

    def write_free(self, block: Block, place: str) -> None:
        """Write the release of the place of that source."""
        block.line(f"mbarrier.arrive({self.comes_with}_free.index({place}), count=1)")

    def _write_next(self, block: Block) -> None:
        phase = self._write_place(block)
        block.line(f"mbarrier.wait({self.ready}, {phase})")
        block.line(f"{self.about[0]} = read({self._note(0)})")

    def _write_wait_free(self, block: Block) -> None:
        phase = self._write_place(block)
        block.line(f"mbarrier.wait({self.comes_with}_free.index({self.place}), {phase} ^ 1)")

    def _write_place(self, block: Block) -> str:
        """Write the place of the work at hand; the source of how often it was used, modulo 2."""
        if self.places == 1:
            return "nth_work & 1"
        block.line(f"{self.place} = nth_work % {self.places}")
        return f"nth_work // {self.places} & 1"

    def _note(self, number: int) -> str:
        if self.places == 1:
            return f"work_notes.index({number})"
        more = f" + {number}" if number else ""
        return f"work_notes.index({self.place} * {len(self.about)}{more})"


def write_count(block: Block) -> None:
    """Write that a consumer has met the tile at hand."""
    block.line("at = counted(at + 1)")


def kind_for(kind: int, groups: int) -> int:
    """What notes say of tiles of a kind, where consumers skip tiles.

    Args:
        groups: bit g: consumer g computes them.
    """
    return groups << _GROUPS | kind


def write_leave_tile(block: Block, tile: str, after: str, skips: bool = False) -> None:
    """Write the note of a tile at place `stage`: which one it is, and what comes after it.

    Args:
        skips: consumers skip tiles.
    """
    block.line(f"leave(tile_notes.index(stage), {tile} * {1 << _shift(skips)} + {after})")


def tile_in_note(place: str, skips: bool = False) -> str:
    """The source of the tile that the note at a place is of."""
    return f"read(tile_notes.index({place})) >> {_shift(skips)}"


def as_masked(kind: str) -> str:
    """The source of a kind, of the same consumers, whose tiles are masked."""
    return f"{kind} & {-1 << _GROUPS} | {MASKED}"


def write_read_tile(block: Block, tile: str, skips: bool = False) -> None:
    """Write what the note at place `stage` says, into `tile` and `after`.

    Args:
        skips: consumers skip tiles; `own` is not 0 where what comes after is the consumer's own.
    """
    block.line("note = read(tile_notes.index(stage))")
    block.line(f"{tile} = note >> {_shift(skips)}")
    write_kind(block, "note", skips)


def write_kind(block: Block, kind: str, skips: bool) -> None:
    """Write what a number says of the kind of tiles to come into `after`, and `own` with `skips`.

    Args:
        kind: its source; bits above those of kinds may be set.
    """
    block.line(f"after = {kind} & {(1 << _GROUPS) - 1}")
    if skips:
        block.line(f"own = {kind} & ({1 << _GROUPS} << GROUP)")


def _shift(skips: bool) -> int:
    """Bits of a note below the number of the tile."""
    return _GROUPS + _MOST_GROUPS if skips else _GROUPS
