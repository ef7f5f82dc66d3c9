"""One pass of one kind of call: the tensors that it allocates, and the kernels that it launches.

A pass that runs for the first time asks `Kernels` for each launch; whatever these can do again is
done with the addresses of other tensors from then on, and nothing else is worked out. So all calls
of a pass have tensors of the same shapes, strides and types, in memory of whole 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor

from flexdsl.analysis.products import depends_on, width_of
from flexdsl.codegen import FACTOR_ROWS, FACTOR_TENSORS, Phase
from flexdsl.runtime.bind import Bound
from flexdsl.runtime.blocks import strides_of
from flexdsl.runtime.call import Again, Call, Kernels, Slot
from flexdsl.runtime.differences import tables_of

COUNTER: Slot = ("sums", "next_work")  # what programs that stay count with (`Role.COUNTER`)
_APART = 32  # float32 numbers: each part of the work space begins at such a multiple


class Made:
    """A tensor that a pass allocates.

    Args:
        slot: what the kernels have it for.
        shape: its lengths.
        dtype: of its elements.
        padded: are its rows to be whole 16 bytes? It is contiguous else.
        zeroed: is it to be filled with zeros?
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
        self.slot, self._zeroed = slot, zeroed
        self._shape, self._dtype = tuple(shape), dtype
        self._strides = strides_of(shape, dtype, padded)

    def on(self, device: torch.device) -> Callable[[], Tensor]:
        """What makes one on `device`."""
        options: dict[str, Any] = {"dtype": self._dtype, "device": device}
        make = partial(torch.empty_strided, self._shape, self._strides, **options)
        if not self._zeroed:
            return make
        if self._strides != strides_of(self._shape, self._dtype, padded=False):
            return lambda: make().zero_()
        return partial(torch.zeros, self._shape, **options)  # one call and not two


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


def first_phases(bound: Bound) -> tuple[Phase, ...]:
    """What runs before all other kernels of a pass: those of such matrices, and of such tables."""
    found = (Phase.FACTORS, bound.products), (Phase.DIFFERENCES, bound.tables)
    return tuple(phase for phase, of in found if of)


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
    ) -> None:
        self._kernels, self._bound, self._scale = kernels, bound, scale
        self._steps = (*map(Step, first_phases(bound)), *steps)
        all_made, self._results = (*made, *factors_of(bound), *_tables_of(bound)), len(made)
        self._made, self._work = [m.on(device) for m in all_made], work or {}
        order = (*given, *(m.slot for m in all_made), *self._work)
        inside = inside or {}
        self._order = (*order, *inside)
        self._inside = [order.index(slot) for slot in inside.values()]
        sizes = [-(-prod(shape) // _APART) * _APART for shape in self._work.values()]
        *self._starts, size = accumulate(sizes, initial=0)
        sums = (s for s, slot in zip(self._starts, self._work, strict=True) if slot[0] == "sums")
        self._first_sum = min(sums, default=size)
        self._space = partial(torch.zeros, size, dtype=torch.float32, device=device)
        self._launches: tuple[tuple[Step, Again], ...] | None = None
        self._idle = False

    def run(self, *given: Tensor) -> list[Tensor]:
        """Run the kernels; what was made for it, in that order."""
        made = [make() for make in self._made]
        tensors = (*given, *made)
        addresses = [x.data_ptr() for x in tensors]
        space = None
        if self._idle:
            addresses += [0] * len(self._starts)
        elif self._work:
            space = self._space()
            base = space.data_ptr()
            addresses += [base + 4 * start for start in self._starts]
        if self._launches is None:
            parts = [] if space is None else self._parts(space)
            self._launches = self._launch((*tensors, *parts), space)
        else:
            for step, launch in self._launches:
                if step.cleared:
                    self._clear(space)
                if not self._inside:
                    launch.run(addresses)
                else:
                    inside = [addresses[at] + step.offset for at in self._inside]
                    launch.run(addresses + inside)
        return made[: self._results]

    def _clear(self, space: Tensor | None) -> None:
        if space is not None:
            space[self._first_sum :].zero_()

    def _parts(self, space: Tensor) -> list[Tensor]:
        """The tensors of the work space."""
        shapes = zip(self._starts, self._work.values(), strict=True)
        return [space[start : start + prod(shape)].view(shape) for start, shape in shapes]

    def _launch(
        self, tensors: Sequence[Tensor], space: Tensor | None
    ) -> tuple[tuple[Step, Again], ...] | None:
        """Launch each kernel; what does so again, or None where one of them cannot."""
        launches: list[tuple[Step, Again]] = []
        for step in self._steps:
            if step.cleared:
                self._clear(space)
            inside = [
                tensors[at].flatten().view(torch.float32)[step.offset // 4 :] for at in self._inside
            ]
            launch = self._kernels.run(step.phase, self._call((*tensors, *inside), step))
            launches += [] if launch is None else [(step, launch)]
        if len(launches) < len(self._steps):
            return None
        self._idle = set(self._work) == {COUNTER} and not any(n.counts for _, n in launches)
        return tuple(launches)

    def _call(self, tensors: Sequence[Tensor], step: Step) -> Call:
        groups: dict[str, Any] = {"tensors": {}, "rows": {}, "sums": {}, "gradients": {}}
        groups["tables"] = {}
        for (group, name), tensor in zip(self._order, tensors, strict=True):
            groups[group][name] = tensor
        options: dict[str, Any] = {"hopper": self._kernels.hopper, "order": self._order}
        options |= {"heads": step.heads, "sizes": step.sizes}
        return Call(self._bound, self._scale, **groups, **options)
