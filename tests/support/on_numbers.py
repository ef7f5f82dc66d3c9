"""The text of a Hopper kernel on numbers: tensors of torch in the places of shared memory.

What `barriers.py` has decides in which order the sides go on. A product is a number only once it
was waited for: whatever else is done with it before that fails. What the copy engine brings of a
tensor is zero past its ends, and it stores nothing there. Where registers lie is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from support.barriers import Barrier, Program

Turn = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Descriptor:
    """A tensor in blocks of the last two dimensions, or of the only one."""

    tensor: Tensor
    block: list[int]

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def read(self, at: list[int]) -> Tensor:
        found = torch.zeros(self.block, dtype=self.dtype)
        inside = self._inside(at)
        found[tuple(slice(0, x.stop - x.start) for x in inside)] = self.tensor[inside]
        return found.reshape([n for n in self.block if n > 1])

    def write(self, at: list[int], numbers: Tensor) -> None:
        inside = self._inside(at)
        lengths = tuple(slice(0, x.stop - x.start) for x in inside)
        self.tensor[inside] = numbers.reshape(self.block)[lengths]

    def _inside(self, at: list[int]) -> tuple[slice, ...]:
        ends = zip(at, self.block, self.tensor.shape, strict=True)
        return tuple(slice(i, max(i, min(i + n, length))) for i, n, length in ends)


@dataclass(frozen=True)
class Address:
    """Where elements of a tensor are: a number for each of them, or one for all."""

    tensor: Tensor
    at: Any = 0

    def __add__(self, steps: Any) -> Address:
        return Address(self.tensor, self.at + steps)

    def __sub__(self, steps: Any) -> Address:
        return Address(self.tensor, self.at - steps)


class Tile:
    """A place in shared memory; None is in it while a copy is on its way."""

    def __init__(self) -> None:
        self.row: Tensor | None = None

    @property
    def numbers(self) -> Tensor:
        assert self.row is not None, "what has not come is read"
        return self.row

    def reshape(self, shape: list[int]) -> View:
        return View(self, lambda x: x.reshape(shape))

    def permute(self, order: tuple[int, int]) -> View:
        return View(self, lambda x: x).permute(order)

    def slice(self, start: int, length: int, dim: int) -> View:
        return View(self, lambda x: x).slice(start, length, dim)

    def load(self, layout: Any) -> Tensor:
        return self.numbers.clone()

    def store(self, numbers: Tensor) -> None:
        self.row = numbers


@dataclass(frozen=True)
class View:
    """A part of a place, or its rows as columns."""

    place: Tile
    turn: Turn

    @property
    def numbers(self) -> Tensor:
        return self.turn(self.place.numbers)

    def permute(self, order: tuple[int, int]) -> View:
        return View(self.place, lambda x: self.turn(x).permute(order))

    def slice(self, start: int, length: int, dim: int) -> View:
        return View(self.place, lambda x: self.turn(x).narrow(dim, start, length))

    def load(self, layout: Any) -> Tensor:
        return self.numbers.clone()

    def store(self, numbers: Tensor) -> None:
        """Store all of a place."""
        self.place.row = numbers


class Pending:
    """A product that may not have been waited for."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers, self.done = numbers, False


class Products:
    """The products that one consumer has started: each sums up in float32."""

    def __init__(self) -> None:
        self._started: list[tuple[Pending, list[tuple[Tile, Tensor | None]]]] = []

    def start(
        self, left: Any, right: View, into: Any, *, use_acc: bool = True, is_async: bool
    ) -> Pending:
        operands = [x for x in (left, right) if not isinstance(x, Tensor)]
        a, b = (x if isinstance(x, Tensor) else x.numbers for x in (left, right))
        found = a.float() @ b.float()
        if use_acc:
            found = found + (into.numbers if isinstance(into, Pending) else into)
        places = [x.place if isinstance(x, View) else x for x in operands]
        self._started.append((Pending(found), [(x, x.row) for x in places]))
        return self._started[-1][0]

    def wait(self, outstanding: int, deps: list[Any]) -> Any:
        while len(self._started) > outstanding:
            product, operands = self._started.pop(0)
            for place, before in operands:
                assert place.row is before, "a place was taken while a product read it"
            product.done = True
        found = [x.numbers if isinstance(x, Pending) and x.done else x for x in deps]
        return found[0] if len(found) == 1 else found


class Numbers(Program):
    """Shared memory of one program, of numbers."""

    def async_copy_global_to_shared(
        self, descriptor: Any, at: list[int], ready: Barrier, place: Any
    ) -> None:
        found = descriptor.read(at)
        place.row = None
        self.copies.append((place, found, found.numel() * found.element_size(), ready))

    def async_copy_shared_to_global(self, descriptor: Any, at: list[int], place: Any) -> None:
        descriptor.write(at, place.numbers)
        super().async_copy_shared_to_global(descriptor, at, place)


class Language:
    """The functions of Gluon that consumers call; a layout is nothing."""

    float32, int32, int64 = torch.float32, torch.int32, torch.int64
    exp, exp2 = staticmethod(torch.exp), staticmethod(torch.exp2)
    log2 = staticmethod(torch.log2)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

    def arange(self, first: int, last: int, layout: Any = None) -> Tensor:
        return torch.arange(first, last)

    def zeros(self, shape: list[int], dtype: torch.dtype, layout: Any = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def full(self, shape: list[int], value: Any, dtype: torch.dtype, layout: Any = None) -> Tensor:
        return torch.full(shape, value, dtype=dtype)

    def max(self, x: Tensor, axis: int) -> Tensor:
        return x.amax(axis)

    def sum(self, x: Tensor, axis: int) -> Tensor:
        return x.sum(axis)

    def where(self, condition: Any, a: Any, b: Any) -> Tensor:
        return torch.where(torch.as_tensor(condition), a, b)

    def minimum(self, a: Any, b: Any) -> Tensor:
        return torch.minimum(torch.as_tensor(a), torch.as_tensor(b))

    def maximum(self, a: Any, b: Any) -> Tensor:
        return torch.maximum(torch.as_tensor(a), torch.as_tensor(b))

    def abs(self, x: Tensor) -> Tensor:
        return x.abs()

    def to_tensor(self, x: Any) -> Tensor:
        return torch.as_tensor(x)

    def convert_layout(self, x: Tensor, layout: Any) -> Tensor:
        return x

    def load(self, at: Address, mask: Any = None, other: float = 0) -> Tensor:
        index = torch.as_tensor(at.at)
        inside = torch.ones_like(index, dtype=torch.bool) if mask is None else mask
        inside = torch.as_tensor(inside).expand(index.shape)
        return torch.where(inside, at.tensor.flatten()[torch.where(inside, index, 0)], other)

    def store(self, at: Address, numbers: Tensor, mask: Tensor) -> None:
        at.tensor.view(-1)[at.at[mask]] = numbers[mask]


def keep_columns(numbers: Tensor, words: Tensor, other: float, columns: int) -> Tensor:
    """The numbers whose bit is set: bit n of the word of column c is that of column 8 n + c."""
    bits = words.repeat(1, columns // 8) >> torch.arange(columns) // 8 & 1
    return torch.where(bits == 1, numbers, other)
