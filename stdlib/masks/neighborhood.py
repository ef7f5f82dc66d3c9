"""Neighborhood attention on grids of 1 to 3 axes (NATTEN), dilated, strided (GNA) or causal.

    on each axis: x % d == y % d and -right <= centre - y // d <= left
    left = k // 2,  right = k - 1 - left
    centre = clamp(leader, left, n - 1 - right),  leader = min(x // d // s * s + s // 2, n - 1)
    on a causal axis: y <= x and leader - y // d < k,  leader = min(x // d // s * s + s - 1, n - 1)
    with n the number of tokens of x's dilation group

Source: Hassani et al. 2023, "Neighborhood Attention Transformer", https://arxiv.org/abs/2204.07143;
Hassani et al. 2025, "Generalized Neighborhood Attention", https://arxiv.org/abs/2504.16922. Windows
are shifted inside the grid: every query of an axis that is not causal has exactly k keys there. Of
an even k, one more is on the left.

Claim (the papers', not measured here): 1.3 PFLOP/s in FP16 on a B200; NAT is 40% faster than Swin's
windows in 25% less memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flexdsl as fx

from ..arguments import integer_at_least, integers_at_least, refuse
from ..orders.grid import grid

_Sees = Callable[[Any, Any], Any]


def neighborhood(
    shape: Any,
    kernel: Any,
    *,
    stride: Any = 1,
    dilation: Any = 1,
    causal: Any = False,
    extra: int = 0,
) -> fx.Mod:
    """Each token sees the k nearest on each axis. Tokens are row-major; see `TileOrder`.

    Args:
        shape: tokens on each of 1 to 3 axes.
        kernel, stride, dilation: k, s and d, for all axes or for each: 2 <= k, k * d <= the axis'
            length, 1 <= s <= k.
        causal: is an axis causal, for all axes or for each.
        extra: keys after those of the grid, which all queries see.

    Raises:
        ArgumentError: a number is out of these ranges; the message names it and the axis.

    neighborhood((3, 4), 3), queries down, keys across:

        # # # . # # # . # # # .
        # # # . # # # . # # # .
        . # # # . # # # . # # #
        . # # # . # # # . # # #
        # # # . # # # . # # # .
        # # # . # # # . # # # .
        . # # # . # # # . # # #
        . # # # . # # # . # # #
        # # # . # # # . # # # .
        # # # . # # # . # # # .
        . # # # . # # # . # # #
        . # # # . # # # . # # #
    """
    tokens = grid(shape)
    axes = len(tokens.shape)
    rules = zip(
        tokens.shape,
        integers_at_least(2, "kernel", kernel, axes),
        integers_at_least(1, "stride", stride, axes),
        integers_at_least(1, "dilation", dilation, axes),
        [causal] * axes if isinstance(causal, bool) else causal,
        strict=True,
    )
    sees = _every([_axis(number, *rule) for number, rule in enumerate(rules)])
    length = tokens.length
    has_extra = integer_at_least(0, "extra", extra) > 0

    @fx.mask_mod
    def neighborhood(b: int, h: int, q: int, kv: int) -> bool:
        return (has_extra and kv >= length) or sees(tokens(q), tokens(kv))

    return neighborhood


def _axis(number: int, length: int, k: int, stride: int, dilation: int, causal: bool) -> _Sees:
    if k * dilation > length or stride > k:
        raise refuse(
            f"axis {number} has {length} tokens, kernel {k}, dilation {dilation}, stride {stride}",
            "kernel * dilation <= tokens, and stride <= kernel",
        )
    left, right = k // 2, k - 1 - k // 2
    least, more = divmod(length, dilation)
    strided, ragged = stride > 1, more > 0

    def sees(x: Any, y: Any) -> Any:
        i, j = x // dilation, y // dilation
        size = fx.where(x % dilation < more, least + 1, least) if ragged else least
        leader = i // stride * stride + (stride - 1 if causal else stride // 2)
        leader = fx.minimum(leader, size - 1) if strided else i
        if causal:
            near = j <= i and leader - j < k
        else:
            centre = fx.maximum(left, fx.minimum(leader, size - 1 - right))
            near = centre - j <= left and j - centre <= right
        return near and x % dilation == y % dilation

    return sees


def _every(axes: list[_Sees]) -> _Sees:
    first, *others = axes
    if not others:
        return lambda x, y: first(x[0], y[0])
    rest = _every(others)
    return lambda x, y: first(x[0], y[0]) and rest(x[1:], y[1:])
