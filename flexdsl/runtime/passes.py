"""One pass of one kind of call: the tensors that it allocates, and the kernels that it launches.

A pass that runs for the first time asks `Kernels` for each launch; whatever these can do again is
done with the addresses of other tensors from then on, and nothing else is worked out. So all calls
of a pass have tensors of the same shapes, strides and types, in memory of whole 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        layout = self._shape, self._strides
        make = partial(torch.empty_strided, *layout, dtype=self._dtype, device=device)
        return (lambda: make().zero_()) if self._zeroed else make


def factors_of(bound: Bound) -> list[Made]:
    """The matrices of a call's products, which `Phase.FACTORS` writes; none where it has none."""
    width, lengths = width_of(bound.products), bound.lengths
    of_batch, of_head = (depends_on(bound.products, n) for n in ("b", "h"))
    rows = (-(-n // FACTOR_ROWS) * FACTOR_ROWS for n in (lengths.q_len, lengths.kv_len))
    sides = zip(FACTOR_TENSORS, rows, of_batch, of_head, strict=True)
    shapes = {
        name: (lengths.batch if b else 1, lengths.heads if h else 1, length, width)
        for name, length, b, h in sides
    }
    slots = shapes if width else ()
    return [Made(("tensors", name), shapes[name], torch.bfloat16) for name in slots]


def phases_with_factors(bound: Bound, *phases: Phase) -> tuple[Phase, ...]:
    """The kernels of a pass; before them the one that writes those matrices, if there are any."""
    return (Phase.FACTORS, *phases) if bound.products else phases


class Pass:
    """A pass, to be run again and again.

    Args:
        kernels: what runs.
        phases: the kernels, in order.
        bound, scale, device: of the calls.
        given: what kernels have the tensors for that a run is given.
        made: what a run allocates and gives back.
        work: shapes of float32 tensors that a run allocates for itself, filled with zeros.
    """

    def __init__(
        self,
        kernels: Kernels,
        phases: tuple[Phase, ...],
        bound: Bound,
        scale: float,
        device: torch.device,
        given: Sequence[Slot],
        made: Sequence[Made],
        work: dict[Slot, tuple[int, ...]] | None = None,
    ) -> None:
        self._kernels, self._phases, self._bound, self._scale = kernels, phases, bound, scale
        self._made, self._work = [m.on(device) for m in made], work or {}
        self._order = (*given, *(m.slot for m in made), *self._work)
        sizes = [-(-prod(shape) // _APART) * _APART for shape in self._work.values()]
        *self._starts, size = accumulate(sizes, initial=0)
        self._space = partial(torch.zeros, size, dtype=torch.float32, device=device)
        self._launches: tuple[Again, ...] | None = None

    def run(self, *given: Tensor) -> list[Tensor]:
        """Run the kernels; what was made for it, in that order."""
        made = [make() for make in self._made]
        tensors = (*given, *made)
        addresses = [x.data_ptr() for x in tensors]
        space = None
        if self._work:
            space = self._space()
            base = space.data_ptr()
            addresses += [base + 4 * start for start in self._starts]
        if self._launches is None:
            parts = [] if space is None else self._parts(space)
            self._launches = self._launch((*tensors, *parts))
        else:
            for launch in self._launches:
                launch.run(addresses)
        return made

    def _parts(self, space: Tensor) -> list[Tensor]:
        """The tensors of the work space."""
        shapes = zip(self._starts, self._work.values(), strict=True)
        return [space[start : start + prod(shape)].view(shape) for start, shape in shapes]

    def _launch(self, tensors: Sequence[Tensor]) -> tuple[Again, ...] | None:
        """Launch each kernel; what does so again, or None where one of them cannot."""
        groups: dict[str, Any] = {"tensors": {}, "rows": {}, "sums": {}, "gradients": {}}
        for (group, name), tensor in zip(self._order, tensors, strict=True):
            groups[group][name] = tensor
        hopper, order = self._kernels.hopper, self._order
        call = Call(self._bound, self._scale, **groups, hopper=hopper, order=order)
        launches = [self._kernels.run(phase, call) for phase in self._phases]
        return None if None in launches else tuple(x for x in launches if x is not None)
