"""The sides of a Hopper kernel on plain ints, in any interleaving: barriers and places.

Each side's text runs as a generator that stops wherever others may go on: before it waits, after it
arrives. Copies come in, and go out, some time after they are asked for. Of scores, weights and
outputs nothing is known but which tiles they were made of; what is written down is which tiles
products read, and it is looked at that nobody else writes to a place before a product or a copy
that reads it is waited for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

Sources = frozenset[tuple[str, int]]  # tiles: the tensor, and the first row


class Nothing:
    """A tensor of which nothing is known but what it was made of; so is what is computed from it.

    Attributes:
        sources: the tiles.
    """

    sources: Sources = frozenset()

    def __init__(self, sources: Sources = frozenset()) -> None:
        self.sources = sources

    def __getattr__(self, name: str) -> Any:
        return self

    def _with(self, *others: Any, **_: Any) -> Any:
        return Nothing(self.sources.union(*map(sources_of, others)))

    def _same(self, *_: Any) -> Any:
        return self

    __call__ = _with
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _with
    __rtruediv__ = __floordiv__ = __mod__ = __and__ = __rlshift__ = __rshift__ = _with
    __eq__ = __ne__ = __lt__ = __ge__ = _with
    __getitem__ = __neg__ = _same
    __hash__ = None  # type: ignore[assignment]


def sources_of(x: Any) -> Sources:
    """What a tensor, or the tile in a place, was made of; nothing for whatever else."""
    if isinstance(x, Place):
        return x.sources
    return x.sources if isinstance(x, Nothing) else frozenset()


@dataclass
class Place:
    """A tile in shared memory.

    Attributes:
        of: the tensor.
        row: the first row of what was copied there, or what that was made of which was stored; None
            while a copy is on its way.
    """

    of: str
    row: int | Sources | None = None

    @property
    def sources(self) -> Sources:
        """What the tile was made of."""
        assert self.row is not None, "what has not come is read"
        return frozenset({(self.of, self.row)}) if isinstance(self.row, int) else self.row

    def _same(self, *_: Any, **__: Any) -> Place:
        return self

    reshape = permute = slice = _same

    def load(self, layout: Any) -> Nothing:
        return Nothing(self.sources)

    def store(self, tensor: Any) -> None:
        self.row = sources_of(tensor)


@dataclass
class Barrier:
    """A barrier: phases that were completed, who arrived in the one at hand, bytes to come."""

    arrivals: int
    phases: int = 0
    arrived: set[str] = field(default_factory=set[str])
    nbytes: int = 0

    def complete(self) -> None:
        if len(self.arrived) == self.arrivals and self.nbytes == 0:
            self.phases += 1
            self.arrived = set()


@dataclass
class Array:
    """Places or barriers that are made as they are asked for."""

    make: Callable[[], Any]
    found: dict[int, Any] = field(default_factory=dict[int, Any])

    def index(self, at: int) -> Any:
        return self.found.setdefault(at, self.make())


class Program:
    """Shared memory of one program, its sides, and the order in which they go on."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.copies: list[tuple[Place, int, int, Barrier]] = []
        self.stores: list[tuple[str, Place, int | Sources | None]] = []
        self.sides: dict[str, Iterator[Callable[[], bool]]] = {}
        self.running = ""
        self.notes: dict[Any, int] = {}

    def wait(self, barrier: Barrier, phase: int) -> Callable[[], bool]:
        return lambda: barrier.phases % 2 != phase % 2

    def arrive(self, barrier: Barrier, count: int = 1) -> Callable[[], bool]:
        assert self.running not in barrier.arrived, "one side arrived twice in a phase"
        barrier.arrived.add(self.running)
        barrier.complete()
        return lambda: True

    def expect(self, barrier: Barrier, nbytes: int) -> None:
        barrier.nbytes += nbytes
        self.arrive(barrier)

    def async_copy_global_to_shared(
        self, nbytes: int, at: list[int], ready: Barrier, place: Place
    ) -> None:
        place.row = None
        self.copies.append((place, at[2] if len(at) > 1 else at[0], nbytes, ready))

    def async_copy_shared_to_global(self, out: Any, at: list[int], place: Place) -> None:
        self.stores.append((self.running, place, place.row))

    def store_wait(self, outstanding: int) -> Callable[[], bool]:
        mine = self.running
        return lambda: all(side != mine for side, *_ in self.stores)

    def run(self) -> None:
        """Let sides and copies go on until all sides are done, whichever may, at random."""
        pace = defaultdict(lambda: self.random.choice((0.02, 0.3, 1.0)))  # some sides are slow
        blocked = {name: next(side) for name, side in self.sides.items()}
        while blocked:
            able = [name for name, may in blocked.items() if may()]
            under_way = len(self.copies) + len(self.stores)
            assert able or under_way, f"all wait for each other: {sorted(blocked)}"
            names = [*able, *(["copy"] if under_way else [])]
            (name,) = self.random.choices(names, [pace[n] for n in names])
            if name == "copy":
                self._bring(self.random.randrange(under_way))
                continue
            self.running = name
            following = next(self.sides[name], None)
            if following is None:
                del blocked[name]
            else:
                blocked[name] = following

    def _bring(self, number: int) -> None:
        if number >= len(self.copies):
            _, place, stored = self.stores.pop(number - len(self.copies))
            assert place.row is stored, "a place was taken while a copy read it"
            return
        place, row, nbytes, ready = self.copies.pop(number)
        place.row = row
        ready.nbytes -= nbytes
        ready.complete()


class Products:
    """The products that one consumer has started, and what those read that it has waited for.

    Attributes:
        read: first rows of tiles, by the name of their tensor.
    """

    def __init__(self) -> None:
        self._started: list[list[tuple[Place, int | Sources | None]]] = []
        self.read: defaultdict[str, list[int | Sources | None]] = defaultdict(list)

    def start(
        self, left: Any, right: Place, into: Any, *, use_acc: bool = True, is_async: bool
    ) -> Nothing:
        operands = [x for x in (left, right) if isinstance(x, Place)]
        self._started.append([(x, x.row) for x in operands])
        made = sources_of(left) | sources_of(right)
        return Nothing(made | sources_of(into) if use_acc else made)

    def wait(self, outstanding: int, deps: list[Any]) -> Any:
        while len(self._started) > outstanding:
            for place, row in self._started.pop(0):
                assert place.row == row, "a place was taken while a product read it"
                self.read[place.of].append(row)
        return deps[0] if len(deps) == 1 else deps
