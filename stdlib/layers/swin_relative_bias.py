"""Swin's relative position bias as a layer.

    score + table[offset of the two in the window, h]

Source: Liu et al. 2021, https://arxiv.org/abs/2103.14030; see `swin_bias`.
"""

from __future__ import annotations

from typing import Any

import torch

from ..arguments import integer_at_least, integers_at_least
from ..orders.grid import grid
from .module import ModModule


class SwinRelativeBias(ModModule):
    """Pass it as `score=`, where the tokens are those of one window, row-major.

    Attributes:
        table: the parameter, float32 [(2 * rows - 1) * (2 * columns - 1), heads], as in Swin's
            checkpoints (`relative_position_bias_table`).
    """

    table: torch.nn.Parameter

    def __init__(self, num_heads: int, window: Any) -> None:
        """Start from a normal distribution of standard deviation 0.02, cut at 2, as Swin does.

        Args:
            num_heads: number of query heads.
            window: rows and columns of the window; one number for both.

        Raises:
            ArgumentError: a number is not an integer of at least 1.
        """
        super().__init__()
        rows, columns = integers_at_least(1, "window", window, 2)
        heads = integer_at_least(1, "num_heads", num_heads)
        self.table = torch.nn.Parameter(torch.zeros((2 * rows - 1) * (2 * columns - 1), heads))
        torch.nn.init.trunc_normal_(self.table, std=0.02)
        self.rows, self.columns = rows, columns
        self.place = grid((rows, columns))

    def forward(self, score: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        """The score of one pair, with the bias."""
        (row, column), (other_row, other_column) = self.place(q), self.place(kv)
        down, across = row - other_row + self.rows - 1, column - other_column + self.columns - 1
        return score + self.table[down * (2 * self.columns - 1) + across, h]
