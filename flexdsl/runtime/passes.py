"""One pass of one kind of call: the tensors that it allocates, and the kernels that it launches.

A pass that runs for the first time asks `Kernels` for each launch. If all can be done again, they
are from then on, with the addresses of other tensors, and nothing else is worked out. So all calls
of a pass have tensors of the same shapes, strides and types, in memory of whole 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from flexdsl.analysis.products import depends_on, width_of
from flexdsl.codegen import FACTOR_ROWS, FACTOR_TENSORS, KernelSpec, Phase
from flexdsl.runtime.bind import Bound
from flexdsl.runtime.blocks import strides_of
from flexdsl.runtime.call import Call, Place, Slot
from flexdsl.runtime.differences import tables_of, with_tables
from flexdsl.runtime.low_rank import with_products
from flexdsl.runtime.replay import Cleared, Launch, Replay
from flexdsl.runtime.splits import Splits

COUNTER: Slot = ("sums", "next_work")  # what programs that stay count with (`Role.COUNTER`)
_APART = 32  # float32 numbers: each part of the work space begins at such a multiple
# `torch.empty_strided` at half its price, as in code that torch compiles: nobody who might watch is
# asked, and the memory is that of the current GPU.
_COMPILED: Any = torch._C._dynamo.guards
_EMPTY: Mapping[str, Callable[..., Tensor]] = {
    "cpu": _COMPILED._empty_strided_cpu,
    "cuda": _COMPILED._empty_strided_cuda,
}


class Kernels(Protocol):
    """Where the kernels of calls come from: a compiler, or a bundle."""

    @property
    def hopper(self) -> bool:
        """Are kernels in Gluon to be tried first?"""

    @property
    def compiles(self) -> bool:
        """Are kernels made for what a call has, its numbers too? Else for what its mods say."""

    def run(self, phase: Phase, call: Call) -> Launch | None:
        """Run the kernel of `phase`; what does so for another call of its kind, if possible."""

    def backward_phases(self, call: Call) -> tuple[Phase, ...]:
        """The kernels of a call's backward pass, in the order in which they run."""

    def prepares(self, phases: tuple[Phase, ...], backward: bool) -> bool:
        """Are there kernels of a pass before which those of `phases` run?"""

    def splits(self, call: Call) -> Splits | None:
        """How a forward pass is split along the keys; None where the ordinary kernel runs."""


class Made:
    """A tensor that a pass allocates.

    Args:
        slot: what the kernels have it for.
        shape: its lengths.
        dtype: of its elements.
        padded: are its rows to be whole 16 bytes? It is contiguous else.
        zeroed: is it to be filled with zeros? It is contiguous then.
    """

    def __init__(
        self,
        slot: Slot,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        *,
        padded: bool = False,
        zeroed: bool = False,
    ) -> None:
        self.slot, self.zeroed = slot, zeroed
        self.size = prod(shape) * dtype.itemsize  # bytes, of a contiguous one
        self._shape, self._dtype = tuple(shape), dtype
        self._strides = strides_of(shape, dtype, padded)

    def on(self, device: torch.device) -> Callable[[], Tensor]:
        """What makes one on `device`, which is the current one then; it is not filled yet."""
        return partial(_EMPTY[device.type], self._shape, self._strides, self._dtype)


def factors_of(bound: Bound) -> list[Made]:
    """The matrices of a call's products, which `Phase.FACTORS` writes; none where it has none."""
    if not bound.products:
        return []
    width, lengths = width_of(bound.products), bound.lengths
    of_batch, of_head = (depends_on(bound.products, n) for n in ("b", "h"))
    rows = (-(-n // FACTOR_ROWS) * FACTOR_ROWS for n in (lengths.q_len, lengths.kv_len))
    sides = zip(FACTOR_TENSORS, rows, of_batch, of_head, strict=True)
    shapes = (
        (name, (lengths.batch if b else 1, lengths.heads if h else 1, length, width))
        for name, length, b, h in sides
    )
    return [Made(("tensors", name), shape, torch.bfloat16) for name, shape in shapes]


def _tables_of(bound: Bound) -> list[Made]:
    """The tables of q - kv of a call, which `Phase.DIFFERENCES` writes; none where it has none."""
    if not bound.tables:
        return []
    return [Made(("tables", name), shape, dtype) for name, shape, dtype in tables_of(bound)]


def first_phases(score: Bound | KernelSpec) -> tuple[Phase, ...]:
    """What runs before all other kernels of a pass: those of such matrices, and of such tables.

    Args:
        score: what has them.
    """
    found = (Phase.FACTORS, score.products), (Phase.DIFFERENCES, score.tables)
    return tuple(phase for phase, of in found if of)


def prepared(
    bound: Bound, scale: float, dtype: torch.dtype, kernels: Kernels, *, backward: bool
) -> Bound:
    """A call with what other kernels write before those of a pass, where there are such.

    Args:
        dtype: of q, k and v.
    """
    found = with_tables(with_products(bound, scale, dtype, squares=kernels.compiles))
    return found if kernels.prepares(first_phases(found), backward) else bound


@dataclass(frozen=True)
class Step:
    """One launch of a pass.

    Attributes:
        phase: the kernel.
        heads, sizes: those of a `Call`.
        cleared: are the sums in the work space to be filled with zeros before it? They are once
            before the first step.
        offset: bytes before the part that is its own of a tensor that others lie inside of.
    """

    phase: Phase
    heads: range | None = None
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    cleared: bool = False
    offset: int = 0


class Pass:
    """A pass, to be run again and again. Matrices of products, and tables, are its own affair.

    Args:
        kernels: what runs.
        steps: its launches, in order; those of matrices and tables come before them by themselves.
        bound, scale, device: of the calls.
        given: what kernels have the tensors for that a run is given.
        made: what a run allocates and gives back.
        work: shapes of float32 tensors that a run allocates for itself, filled with zeros; sums
            come last. Where that is a counter alone, which no launch turned out to count with, it
            is allocated for the first run only.
        inside: float32 tensors that lie in the memory of a made one, by its slot.
        between: what a run allocates for one launch to write and another to read.
    """

    def __init__(
        self,
        kernels: Kernels,
        steps: Sequence[Step],
        bound: Bound,
        scale: float,
        device: torch.device,
        given: Sequence[Slot],
        made: Sequence[Made],
        work: Mapping[Slot, tuple[int, ...]] | None = None,
        inside: Mapping[Slot, Slot] | None = None,
        between: Sequence[Made] = (),
    ) -> None:
        self._kernels, self._bound, self._scale = kernels, bound, scale
        self._steps = (*map(Step, first_phases(bound)), *steps)
        all_made = (*made, *between, *factors_of(bound), *_tables_of(bound))
        self._results = len(made)
        self._made = [m.on(device) for m in all_made]
        self._work, self._inside = work or {}, inside or {}
        whole = (*given, *(m.slot for m in all_made))
        self._places: dict[Slot, Place] = {slot: (i, 0) for i, slot in enumerate(whole)}
        self._index_of_space = len(whole)
        sizes = [-(-prod(shape) // _APART) * _APART for shape in self._work.values()]
        *self._starts, size = accumulate(sizes, initial=0)
        for slot, start in zip(self._work, self._starts, strict=True):
            self._places[slot] = self._index_of_space, 4 * start
        sums = (s for s, slot in zip(self._starts, self._work, strict=True) if slot[0] == "sums")
        self._first_sum = min(sums, default=size)
        self._zeroed = [(i, m.size) for i, m in enumerate(all_made, len(given)) if m.zeroed]
        make = Made(("sums", ""), (size,)).on(device)
        self._space: Callable[[], Tensor] | None = make if self._work else None
        self._gpu = device.index if device.type == "cuda" else None
        self._replay: Replay | None = None

    def run(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Run the kernels; what was made for it, in that order."""
        if self._gpu is not None and torch._C._cuda_getDevice() != self._gpu:
            with torch.cuda.device(self._gpu):
                return self.run(*given)
        made = tuple([make() for make in self._made])
        space = None if self._space is None else self._space()
        tensors = given + made
        if self._replay is None:
            self._replay = self._run_first(tensors, space)
        else:
            addresses = [x.data_ptr() for x in tensors]
            addresses.append(0 if space is None else space.data_ptr())
            self._replay.run(addresses)
        return made if len(made) == self._results else made[: self._results]

    def _run_first(self, tensors: Sequence[Tensor], space: Tensor | None) -> Replay | None:
        """Launch each kernel; what does so again, or None where one of them cannot."""
        for index, _ in self._zeroed:
            tensors[index].zero_()
        parts = [] if space is None else self._parts(space.zero_())
        works: list[Launch | Cleared] = []
        for step in self._steps:
            if step.cleared and space is not None:
                space[self._first_sum :].zero_()
                works.append(self._cleared_work(space, self._first_sum))
            launch = self._kernels.run(step.phase, self._call((*tensors, *parts), step))
            works += [] if launch is None else [launch]
        launches = [work for work in works if isinstance(work, Launch)]
        if len(launches) < len(self._steps):
            return None
        if set(self._work) == {COUNTER} and not any(launch.counts for launch in launches):
            space = self._space = None
        before = [Cleared((index, 0), size) for index, size in self._zeroed if size]
        before += [] if space is None else [self._cleared_work(space, 0)]
        return Replay([*before, *works], self._index_of_space + 1)

    def _cleared_work(self, space: Tensor, first: int) -> Cleared:
        """The work space from its number `first` on."""
        return Cleared((self._index_of_space, 4 * first), 4 * (space.numel() - first))

    def _parts(self, space: Tensor) -> list[Tensor]:
        """The tensors of the work space."""
        shapes = zip(self._starts, self._work.values(), strict=True)
        return [space[start : start + prod(shape)].view(shape) for start, shape in shapes]

    def _call(self, tensors: Sequence[Tensor], step: Step) -> Call:
        """The call of a step.

        Args:
            tensors: given and made ones and the parts of the work space, as in `_places`.
        """
        groups: dict[str, Any] = {"tensors": {}, "rows": {}, "sums": {}, "gradients": {}}
        groups["tables"] = {}
        places = dict(self._places)
        for (group, name), tensor in zip(self._places, tensors, strict=True):
            groups[group][name] = tensor
        for (group, name), (outer_group, outer) in self._inside.items():
            numbers = groups[outer_group][outer].flatten().view(torch.float32)
            groups[group][name] = numbers[step.offset // 4 :]
            places[group, name] = self._places[outer_group, outer][0], step.offset
        options: dict[str, Any] = {"hopper": self._kernels.hopper, "places": places}
        options |= {"heads": step.heads, "sizes": step.sizes}
        return Call(self._bound, self._scale, **groups, **options)
