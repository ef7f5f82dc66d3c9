"""Swin's shifted windows: the image is rolled, and what was not near does not see each other.

    r = (row - shift) % rows: equal r // window and equal part of r; so the columns
    part: 0 for r < rows - window, 1 for r < rows - shift, else 2

Source: Liu et al. 2021, "Swin Transformer", https://arxiv.org/abs/2103.14030. Its code adds -100
where this mask excludes, which is not the same for a row that sees little. Where an axis is not
longer than the window, both axes are one window without a shift, as there.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import check_divides, integer_at_least, integers_at_least, refuse
from ..orders.grid import grid


def shifted_window(shape: Any, window: int, shift: int | None = None) -> fx.Mod:
    """Each token sees its window of the shifted image. Tokens are row-major, not rolled.

    Args:
        shape: rows and columns of the image, in tokens.
        window: rows and columns of a window.
        shift: tokens by which windows are shifted down and right; None for window // 2.

    Raises:
        ArgumentError: the window does not divide the shape, or the shift is as large as the window.

    shifted_window((4, 4), 2), queries down, keys across:

        # . . . . . . . . . . . . . . .
        . # # . . . . . . . . . . . . .
        . # # . . . . . . . . . . . . .
        . . . # . . . . . . . . . . . .
        . . . . # . . . # . . . . . . .
        . . . . . # # . . # # . . . . .
        . . . . . # # . . # # . . . . .
        . . . . . . . # . . . # . . . .
        . . . . # . . . # . . . . . . .
        . . . . . # # . . # # . . . . .
        . . . . . # # . . # # . . . . .
        . . . . . . . # . . . # . . . .
        . . . . . . . . . . . . # . . .
        . . . . . . . . . . . . . # # .
        . . . . . . . . . . . . . # # .
        . . . . . . . . . . . . . . . #
    """
    rows, columns = integers_at_least(1, "shape", shape, 2)
    window = integer_at_least(1, "window", window)
    shift = window // 2 if shift is None else integer_at_least(0, "shift", shift)
    if shift >= window:
        raise refuse(f"shift is {shift}, but it must be less than window, {window}")
    if min(rows, columns) <= window:
        window, shift = min(rows, columns), 0
    check_divides("window", window, "shape[0]", rows)
    check_divides("window", window, "shape[1]", columns)
    image = grid((rows, columns))

    def near(x: Any, y: Any, length: Any) -> Any:
        # Only the last window of the rolled axis has two parts: its end came from the front.
        i, j = (x - shift) % length, (y - shift) % length
        return i // window == j // window and (i < length - shift) == (j < length - shift)

    @fx.mask_mod
    def shifted_window(b: int, h: int, q: int, kv: int) -> bool:
        (row, column), (other_row, other_column) = image(q), image(kv)
        return near(row, other_row, rows) and near(column, other_column, columns)

    return shifted_window
