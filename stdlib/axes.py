"""Conditions on the axes of a grid, and their conjunction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flexdsl as fx

from .arguments import refuse

Sees = Callable[[Any, Any], Any]


def near_on_axis(axis: int, length: int, k: int, stride: int, dilation: int, causal: bool) -> Sees:
    """Does a query at x see a key at y, on one axis of neighborhood attention?

    Args:
        axis: its number, for the message of an error.
        length: tokens on the axis; the rest as in `neighborhood`, which has the formula.

    Raises:
        ArgumentError: the window is longer than the axis, or the stride than the window.
    """
    if k * dilation > length or stride > k:
        raise refuse(
            f"axis {axis} has {length} tokens, kernel {k}, dilation {dilation}, stride {stride}",
            "kernel * dilation <= tokens, and stride <= kernel",
        )
    left, right = k // 2, k - 1 - k // 2
    least, more = divmod(length, dilation)
    strided, ragged = stride > 1, more > 0

    def sees(x: Any, y: Any) -> Any:
        i, j = x // dilation, y // dilation
        size = fx.where(x % dilation < more, least + 1, least) if ragged else least
        leader = i // stride * stride + (stride - 1 if causal else stride // 2)
        leader = fx.minimum(leader, size - 1) if strided else i
        if causal:
            near = j <= i and leader - j < k
        else:
            centre = fx.maximum(left, fx.minimum(leader, size - 1 - right))
            near = centre - j <= left and j - centre <= right
        return near and x % dilation == y % dilation

    return sees


def every_axis(axes: list[Sees]) -> Sees:
    """Is a condition of each axis true of the coordinates of a query and a key?

    Functions that hold each other, and no list of them: the numbers in a closure become arguments
    of the kernel, those in a list constants.
    """
    first, *others = axes
    if not others:
        return lambda x, y: first(x[0], y[0])
    rest = every_axis(others)
    return lambda x, y: first(x[0], y[0]) and rest(x[1:], y[1:])
