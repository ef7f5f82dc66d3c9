"""Spatial distance: tokens that are far from each other in space attend less.

    score - weight * sum over axes of (x[q] - y[kv]) ** 2

Source: the spatial bias of Wu et al. 2025, "FlashBias", https://arxiv.org/abs/2505.12044, and of
https://github.com/thuml/Neural-Solver-Library. Its exact rank is axes + 2: in 3-D five columns,
[2x, 2y, 2z, -|x|^2, 1] and [x, y, z, 1, -|x|^2]. Kernels for inputs of 16 bits compute it so, while
weight times |x|^2 is 4096 at most: above that, near tokens would lose digits.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, check_shape


def spatial_distance(positions: Any, keys: Any = None, *, weight: Any = None) -> fx.Mod:
    """The squared distance of the two tokens, taken off the score.

    Args:
        positions: float array or tensor [length, axes] of the queries, and of the keys too where
            there are no others.
        keys: float array or tensor [kv_len, axes] of the keys.
        weight: float array or tensor [heads] or [heads, q_len], of a head or of its queries; 1
            where None. All three may be learned.

    Raises:
        ArgumentError: an array has another shape, or the numbers of axes differ.

    spatial_distance([[0.0], [1.0], [3.0]]), of a score of 0:

         0 -1 -9
        -1  0 -4
        -9 -4  0
    """
    x = array_of("positions", positions, (2,), "float")
    axes = int(x.shape[1])
    y = x if keys is None else array_of("keys", keys, (2,), "float")
    check_shape("keys", y, (None, axes), "tokens, and as many axes as positions")
    factor = None if weight is None else array_of("weight", weight, (1, 2), "float")
    by_query = factor is not None and len(factor.shape) == 2

    @fx.score_mod
    def spatial_distance(score: float, b: int, h: int, q: int, kv: int) -> float:
        squares = 0.0
        for axis in range(axes):
            difference = x[q, axis] - y[kv, axis]
            squares = squares + difference * difference
        if factor is None:
            return score - squares
        return score - (factor[h, q] if by_query else factor[h]) * squares

    return spatial_distance
