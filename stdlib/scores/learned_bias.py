"""A learned table of biases, of any index: by head, by position, by distance, by pair.

    score + table[indices named by axes]

Source: Shaw et al. 2018, "Self-Attention with Relative Position Representations",
https://arxiv.org/abs/1803.02155, and many since; bias tables are torch's `attn_mask` of floats.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, refuse

_AXES = "bhqkrd"


def learned_bias(table: Any, axes: str) -> fx.Mod:
    """What the table has at the pair's place is added to the score.

    Args:
        table: float array or tensor with one dimension for each letter; a learned one gets its
            gradient.
        axes: what indexes each dimension: b batch, h query head, q query, k key, d distance
            abs(q - kv), r relative position q - kv, whose zero is in the middle of an odd
            dimension. Distances beyond the table have its last entry.

    Raises:
        ArgumentError: the letters do not fit the table's dimensions, or one of r is even.

    learned_bias([-2.0, -1.0, 0.0, 1.0, 2.0], "r"), of a score of 0:

         0 -1 -2 -2
         1  0 -1 -2
         2  1  0 -1
         2  2  1  0
    """
    if not axes or set(axes) - set(_AXES):
        raise refuse(f"axes is {axes!r}, but it must be letters of {_AXES}", 'axes="hr"')
    biases = array_of("table", table, (len(axes),), "float")
    sizes = tuple(int(n) for n in biases.shape)
    for axis, size in zip(axes, sizes, strict=True):
        if axis == "r" and size % 2 == 0:
            raise refuse(f"axis r of table has {size} entries, but an odd number has a middle")

    @fx.score_mod
    def learned_bias(score: float, b: int, h: int, q: int, kv: int) -> float:
        indices = []
        for axis, size in zip(axes, sizes, strict=True):
            middle = size // 2
            match axis:
                case "d":
                    indices.append(fx.minimum(fx.abs(q - kv), size - 1))
                case "r":
                    indices.append(fx.maximum(0, fx.minimum(q - kv + middle, size - 1)))
                case _:
                    indices.append({"b": b, "h": h, "q": q, "k": kv}[axis])
        return score + biases[tuple(indices)]

    return learned_bias
