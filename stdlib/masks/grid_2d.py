"""MaxViT's grid attention: tokens that are whole strides apart, over all of the image.

    row(q) % (rows / grid) == row(kv) % (rows / grid), and so the columns

Source: Tu et al. 2022, "MaxViT: Multi-Axis Vision Transformer", https://arxiv.org/abs/2204.01697.
In `TileOrder(shape, tokens, dilation=(rows // grid, columns // grid))` each tile of `tokens` x
`tokens` sees itself alone, and all of itself.

Claim (the paper's, not measured here): 86.5% on ImageNet-1K, 88.7% after ImageNet-21K.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import check_divides, integers_at_least
from ..orders.grid import grid


def grid_2d(shape: Any, tokens: Any) -> fx.Mod:
    """Each token sees `tokens` on each axis, evenly spread. Tokens are row-major.

    Args:
        shape: rows and columns of the image, in tokens.
        tokens: rows and columns that see each other; one number for both; MaxViT has 7.

    Raises:
        ArgumentError: `tokens` does not divide the shape.

    grid_2d((4, 4), 2), queries down, keys across:

        # . # . . . . . # . # . . . . .
        . # . # . . . . . # . # . . . .
        # . # . . . . . # . # . . . . .
        . # . # . . . . . # . # . . . .
        . . . . # . # . . . . . # . # .
        . . . . . # . # . . . . . # . #
        . . . . # . # . . . . . # . # .
        . . . . . # . # . . . . . # . #
        # . # . . . . . # . # . . . . .
        . # . # . . . . . # . # . . . .
        # . # . . . . . # . # . . . . .
        . # . # . . . . . # . # . . . .
        . . . . # . # . . . . . # . # .
        . . . . . # . # . . . . . # . #
        . . . . # . # . . . . . # . # .
        . . . . . # . # . . . . . # . #
    """
    sizes = integers_at_least(1, "shape", shape, 2)
    counts = integers_at_least(1, "tokens", tokens, 2)
    for axis in (0, 1):
        check_divides("tokens", counts[axis], f"shape[{axis}]", sizes[axis])
    down, across = sizes[0] // counts[0], sizes[1] // counts[1]
    image = grid(sizes)

    @fx.mask_mod
    def grid_2d(b: int, h: int, q: int, kv: int) -> bool:
        (row, column), (other_row, other_column) = image(q), image(kv)
        return (row - other_row) % down == 0 and (column - other_column) % across == 0

    return grid_2d
