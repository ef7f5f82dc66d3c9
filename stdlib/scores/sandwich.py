"""Sandwich: the inner products of sinusoidal positions as a bias that needs no training.

    score + heads / (8 * (h + 1)) * sum over u < d // 2 of cos((q - kv) * 10000 ** (-2 * u / d))

Source: Chi et al. 2023, "Dissecting Transformer Length Extrapolation via the Lens of Receptive
Field Analysis", https://arxiv.org/abs/2212.10356; in the form of attention-gym's sandwich.py. The
sum is a product of q's and kv's sines and cosines, so its rank is at most d.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least, refuse


def sandwich(heads: int, dim: int = 128) -> fx.Mod:
    """Near keys get more, in waves; later heads less.

    Args:
        heads: number of query heads.
        dim: d, dimensions of the sinusoidal positions, even.

    Raises:
        ArgumentError: heads is less than 1, or dim is not a positive even integer.

    sandwich(8, dim=2), of a score of 0:

             1   0.54 -0.416  -0.99
          0.54      1   0.54 -0.416
        -0.416   0.54      1   0.54
         -0.99 -0.416   0.54      1
    """
    heads = integer_at_least(1, "heads", heads)
    dim = integer_at_least(2, "dim", dim)
    if dim % 2:
        raise refuse(f"dim is {dim}, but sines and cosines come in pairs", f"dim={dim + 1}")
    frequencies = tuple(10000.0 ** (-2 * u / dim) for u in range(dim // 2))

    @fx.score_mod
    def sandwich(score: float, b: int, h: int, q: int, kv: int) -> float:
        waves = 0.0
        for frequency in frequencies:
            waves = waves + fx.cos((q - kv) * frequency)
        return score + heads / (8 * (h + 1)) * waves

    return sandwich
