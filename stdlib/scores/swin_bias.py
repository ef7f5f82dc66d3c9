"""Swin's relative position bias: a learned number for each offset in a window and each head.

    score + table[down * (2 * columns - 1) + across, h]
    down = row(q) - row(kv) + rows - 1,  across = column(q) - column(kv) + columns - 1

Source: Liu et al. 2021, "Swin Transformer", https://arxiv.org/abs/2103.14030; also MaxViT's. For
Swin V2 (https://arxiv.org/abs/2111.09883) the table is 16 * sigmoid(MLP(`swin_log_coordinates`)).
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, check_shape, integers_at_least
from ..orders.grid import grid


def swin_bias(table: Any, window: Any) -> fx.Mod:
    """The bias inside one window: queries and keys are its tokens, row-major.

    Args:
        table: float array or tensor [(2 * rows - 1) * (2 * columns - 1), heads]; a learned one gets
            its gradient.
        window: rows and columns of the window; one number for both.

    Raises:
        ArgumentError: the table does not fit the window.

    swin_bias([[float(i)] for i in range(9)], 2), of a score of 0:

        4 3 1 0
        5 4 2 1
        7 6 4 3
        8 7 5 4
    """
    rows, columns = integers_at_least(1, "window", window, 2)
    offsets = (2 * rows - 1) * (2 * columns - 1)
    biases = array_of("table", table, (2,), "float")
    check_shape("table", biases, (offsets, None), f"offsets in a {rows} x {columns} window, heads")
    place, middle = grid((rows, columns)), offsets // 2

    @fx.score_mod
    def swin_bias(score: float, b: int, h: int, q: int, kv: int) -> float:
        # down and across in one number of each token: a pair costs one difference.
        of_query, of_key = (row * (2 * columns - 1) + column for row, column in map(place, (q, kv)))
        return score + biases[of_query + middle - of_key, h]

    return swin_bias
