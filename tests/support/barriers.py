"""The two sides of a Hopper forward kernel on plain ints, in any interleaving: barriers and places.

Each side's text runs as a generator that stops wherever others may go on: before it waits, after it
arrives. Copies come in some time after they are asked for. Scores, weights and outputs are nothing;
what is written down is which tiles products read, and it is looked at that nobody else writes to
a place before a product that reads it is waited for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any


class Nothing:
    """A tensor of which nothing is known; so is whatever is computed from it."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def _same(self, *_: Any) -> Any:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _same
    __rtruediv__ = __floordiv__ = __mod__ = __and__ = __rlshift__ = __getitem__ = __neg__ = _same
    __eq__ = __ne__ = __lt__ = _same  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


@dataclass
class Place:
    """A tile of a tensor in shared memory: its first row, None while a copy is on its way."""

    of: str
    row: int | None = None

    def _same(self, *_: Any) -> Place:
        return self

    reshape = permute = _same

    def load(self, layout: Any) -> int | None:
        return self.row

    def store(self, tensor: Any) -> None:
        self.row = None


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
        self.copies.append((place, at[2], nbytes, ready))

    def run(self) -> None:
        """Let sides and copies go on until all sides are done, whichever may, at random."""
        pace = defaultdict(lambda: self.random.choice((0.02, 0.3, 1.0)))  # some sides are slow
        blocked = {name: next(side) for name, side in self.sides.items()}
        while blocked:
            able = [name for name, may in blocked.items() if may()]
            assert able or self.copies, f"all wait for each other: {sorted(blocked)}"
            names = [*able, *(["copy"] if self.copies else [])]
            (name,) = self.random.choices(names, [pace[n] for n in names])
            if name == "copy":
                self._bring(self.random.randrange(len(self.copies)))
                continue
            self.running = name
            following = next(self.sides[name], None)
            if following is None:
                del blocked[name]
            else:
                blocked[name] = following

    def _bring(self, number: int) -> None:
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
        self._started: list[tuple[Place, int]] = []
        self.read: defaultdict[str, list[int]] = defaultdict(list)

    def start(self, left: Any, right: Place, into: Any, **_: Any) -> Nothing:
        assert right.row is not None, "a product reads what has not come"
        self._started.append((right, right.row))
        return Nothing()

    def wait(self, outstanding: int, deps: list[Any]) -> Any:
        while len(self._started) > outstanding:
            place, row = self._started.pop(0)
            assert place.row == row, "a place was taken while a product read it"
            self.read[place.of].append(row)
        return deps[0] if len(deps) == 1 else deps
