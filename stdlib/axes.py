"""Conditions on the axes of a grid, and their conjunction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flexdsl as fx

from .arguments import host_array, one_of, refuse

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
        if causal:
            last = fx.minimum(i // stride * stride + stride - 1, size - 1) if strided else i
            near = j <= i and last - j < k
        else:
            leader = i // stride * stride + stride // 2
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


def sides_of(windows: Any, tiles: Sequence[int], even: str | None) -> tuple[Any, Any]:
    """Tiles to the left and to the right of its own that a window has: int32 arrays [heads, axes].

    Args:
        windows: widths in tiles, an int array [axes] or [heads, axes].
        tiles: tiles on each axis.
        even: what an even width means, as in `sliding_tile`.

    Raises:
        ArgumentError: a window is larger than its axis, or even without a meaning.
    """
    import numpy as np

    widths = np.atleast_2d(host_array(windows))
    left, right = widths // 2, (widths - 1) // 2
    if even is None and (widths % 2 == 0).any():
        axis = int((widths % 2 == 0).any(axis=0).argmax())
        raise refuse(
            f"kernel is even on axis {axis}, but an odd number of tiles has its own in the middle",
            'an odd number, or even="plus_one" or even="left"',
        )
    if even is not None and one_of("even", even, ("plus_one", "left")) == "plus_one":
        right = left
    for axis, count in enumerate(tiles):
        width = int((left + right)[:, axis].max()) + 1
        if widths[:, axis].min() < 1 or width > count:
            raise refuse(
                f"kernel is {widths[:, axis].tolist()} on axis {axis}, a window of {width} tiles,"
                f" but it must be 1 to {count}, the tiles there"
            )
    return left.astype(np.int32), right.astype(np.int32)
