"""Grids: the coordinates of a token index, for masks written in rows and columns.

    index = (t * H + r) * W + c;   t = index // (H * W),  r = index // W % H,  c = index % W

Source: row-major order, as tensors are stored. Text or register tokens that come after the grid
have a first coordinate that is too large.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from ..arguments import integers_at_least, refuse


@dataclass(frozen=True, repr=False)
class Grid:
    """A grid of 1 to 3 axes whose tokens stand in row-major order. It never changes.

    Attributes:
        shape: lengths of the axes, the slowest first.
    """

    shape: tuple[int, ...]

    @cached_property
    def length(self) -> int:
        """Number of tokens."""
        return prod(self.shape)

    @cached_property
    def _strides(self) -> tuple[int, ...]:
        return tuple(prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))

    def __call__(self, index: Any) -> tuple[Any, ...]:
        """The coordinates of a token, given its index: plain or symbolic."""
        first = index // self._strides[0]
        return first, *(
            index // stride % size
            for stride, size in zip(self._strides[1:], self.shape[1:], strict=True)
        )

    def index(self, *coordinates: Any) -> Any:
        """The index of the token at the coordinates."""
        first, *others = coordinates
        result: Any = first * self._strides[0]
        for coordinate, stride in zip(others, self._strides[1:], strict=True):
            result = result + coordinate * stride
        return result

    def __repr__(self) -> str:
        return f"grid({self.shape})"


def grid(shape: Any) -> Grid:
    """The grid of a shape; `grid((H, W))(q)` gives row and column of a query.

    Args:
        shape: lengths of 1 to 3 axes, in tokens; one integer for a line of tokens.

    Raises:
        ArgumentError: not 1 to 3 integers of at least 1.
    """
    lengths = [shape] if hasattr(shape, "__index__") else shape
    sizes = integers_at_least(1, "shape", lengths)
    if len(sizes) > 3:
        raise refuse(f"shape is {tuple(sizes)}, but a grid has 1 to 3 axes")
    return Grid(tuple(sizes))
