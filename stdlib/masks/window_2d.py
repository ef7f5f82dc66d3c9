"""Windows on an image: it is cut into squares, none of which sees another.

    row(q) // window == row(kv) // window and column(q) // window == column(kv) // window

Source: Liu et al. 2021, "Swin Transformer", https://arxiv.org/abs/2103.14030 (window 7); also the
blocks of MaxViT, Twins' local attention, and HiLo's high frequencies (window 2).

Claim (the paper's, not measured here): 87.3% on ImageNet-1K at a cost linear in the image's size.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import check_divides, integers_at_least
from ..orders.grid import grid


def window_2d(shape: Any, window: Any) -> fx.Mod:
    """Each token sees its own window. Tokens are row-major.

    Args:
        shape: rows and columns of the image, in tokens.
        window: rows and columns of a window; one number for both.

    Raises:
        ArgumentError: a window does not divide the shape: pad the image first.

    window_2d((4, 4), 2), queries down, keys across:

        # # . . # # . . . . . . . . . .
        # # . . # # . . . . . . . . . .
        . . # # . . # # . . . . . . . .
        . . # # . . # # . . . . . . . .
        # # . . # # . . . . . . . . . .
        # # . . # # . . . . . . . . . .
        . . # # . . # # . . . . . . . .
        . . # # . . # # . . . . . . . .
        . . . . . . . . # # . . # # . .
        . . . . . . . . # # . . # # . .
        . . . . . . . . . . # # . . # #
        . . . . . . . . . . # # . . # #
        . . . . . . . . # # . . # # . .
        . . . . . . . . # # . . # # . .
        . . . . . . . . . . # # . . # #
        . . . . . . . . . . # # . . # #
    """
    sizes = integers_at_least(1, "shape", shape, 2)
    height, width = integers_at_least(1, "window", window, 2)
    check_divides("window", height, "shape[0]", sizes[0])
    check_divides("window", width, "shape[1]", sizes[1])
    image = grid(sizes)

    @fx.mask_mod
    def window_2d(b: int, h: int, q: int, kv: int) -> bool:
        (row, column), (other_row, other_column) = image(q), image(kv)
        return row // height == other_row // height and column // width == other_column // width

    return window_2d
