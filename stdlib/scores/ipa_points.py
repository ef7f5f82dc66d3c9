"""Invariant point attention: the distances of points that move with each residue's frame.

    score - weight[h] / 2 * sum over points and axes of (x[h, q, p] - y[h, kv, p]) ** 2

Source: Jumper et al. 2021, "Highly accurate protein structure prediction with AlphaFold",
https://doi.org/10.1038/s41586-021-03819-2, algorithm 22; FlashIPA,
https://github.com/flagshippioneering/flash_ipa, takes columns of a matrix product instead, as
kernels do here for inputs of 16 bits, where the parts of the squares are no larger than 4096 and
have no more than 96 columns (a coordinate 3, or 6 in float32). At the start of training weight is
sqrt(1 / (3 * points * 9 / 2)); scale is sqrt(1 / (3 * head dim)).
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, check_shape


def ipa_points(q_points: Any, k_points: Any, weight: Any) -> fx.Mod:
    """The squared distances of a query's and a key's points, taken off the score.

    Args:
        q_points: float array or tensor [heads, q_len, points, 3], or with [batch] before.
        k_points: float array or tensor [heads, kv_len, points, 3], or with [batch] before.
        weight: float array or tensor [heads], softplus of the learned number, and its factor.

    Raises:
        ArgumentError: an array has another shape, or the two do not fit.

    ipa_points([[[[0, 0, 0]], [[2, 0, 0]]]], [[[[0, 0, 0]], [[0, 2, 0]]]], [1.0]), of a score of 0:

         0 -2
        -2 -4
    """
    x = array_of("q_points", q_points, (4, 5), "float")
    y = array_of("k_points", k_points, (4, 5), "float")
    *leading, _, points, _ = x.shape
    check_shape("q_points", x, (*leading, None, points, 3), "tokens, points, and three axes")
    check_shape("k_points", y, (*leading, None, points, 3), "as q_points, but for the tokens")
    factor = array_of("weight", weight, (1,), "float")
    check_shape("weight", factor, (int(leading[-1]),), "a number for each head of q_points")
    batched, count = len(leading) == 2, int(points)

    @fx.score_mod
    def ipa_points(score: float, b: int, h: int, q: int, kv: int) -> float:
        of_query, of_key = (x[b, h, q], y[b, h, kv]) if batched else (x[h, q], y[h, kv])
        squares = 0.0
        for point in range(count):
            for axis in range(3):
                difference = of_query[point, axis] - of_key[point, axis]
                squares = squares + difference * difference
        return score - 0.5 * factor[h] * squares

    return ipa_points
