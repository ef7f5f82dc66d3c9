"""Fused view and time attention: a frame sees its own view and its own moment.

    view(q) == view(kv) or time(q) == time(kv)

Source: Wang et al. 2025, "4Real-Video-V2", https://arxiv.org/abs/2506.18839, from its
text; no code. Tokens are in the order (view, time, row, column).

Claim (the paper's): a share of (views + times - 1) / (views * times) of dense attention.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least
from ..orders.grid import grid


def view_time(views: int, times: int, tokens_per_frame: int) -> fx.Mod:
    """Each token sees all frames of its view, and the frames of all views at its time.

    Args:
        views, times: number of views and of moments.
        tokens_per_frame: tokens of one view at one time.

    Raises:
        ArgumentError: a number is not an integer of at least 1.

    view_time(3, 2, 2), queries down, keys across:

        # # # # # # . . # # . .
        # # # # # # . . # # . .
        # # # # . . # # . . # #
        # # # # . . # # . . # #
        # # . . # # # # # # . .
        # # . . # # # # # # . .
        . . # # # # # # . . # #
        . . # # # # # # . . # #
        # # . . # # . . # # # #
        # # . . # # . . # # # #
        . . # # . . # # # # # #
        . . # # . . # # # # # #
    """
    frames = grid(
        (
            integer_at_least(1, "views", views),
            integer_at_least(1, "times", times),
            integer_at_least(1, "tokens_per_frame", tokens_per_frame),
        )
    )

    @fx.mask_mod
    def view_time(b: int, h: int, q: int, kv: int) -> bool:
        (view, time, _), (other_view, other_time, _) = frames(q), frames(kv)
        return view == other_view or time == other_time

    return view_time
