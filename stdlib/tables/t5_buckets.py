"""T5's buckets: exact for near keys, then ever wider ones, and one for all that is far.

    n for n < e, else min(B - 1, e + floor(log(n / e) / log(max_distance / e) * (B - e)))
    with B the buckets of one side, e = B // 2

Source: Raffel et al. 2020, https://arxiv.org/abs/1910.10683, and its code's
`_relative_position_bucket`. Powers of two sit on the border of two buckets, so the comparison is
made in whole numbers, exactly.
"""

from __future__ import annotations

from typing import Any

from ..arguments import integer_at_least, refuse


def t5_buckets(buckets: int = 32, max_distance: int = 128, *, bidirectional: bool = True) -> Any:
    """The bucket of each distance, a numpy int32 array [2 * max_distance + 1].

    Entry max_distance + d is of a key d positions after the query; beyond it the last ones hold.

    Args:
        buckets: number of buckets; half of them for later keys where bidirectional.
        max_distance: distance from which on all keys share a bucket.
        bidirectional: an encoder's; else later keys have the bucket of distance 0.

    Raises:
        ArgumentError: buckets is too small or odd, or max_distance not more than a quarter of it.
    """
    import numpy as np

    buckets = integer_at_least(4 if bidirectional else 2, "buckets", buckets)
    if buckets % (4 if bidirectional else 2):
        raise refuse(f"buckets is {buckets}, which its sides and their halves do not divide")
    side = buckets // 2 if bidirectional else buckets
    exact = side // 2
    farthest = integer_at_least(exact + 1, "max_distance", max_distance)
    of_distance = [_bucket(n, side, exact, farthest) for n in range(farthest + 1)]
    before = of_distance[:0:-1]
    after = [side + n for n in of_distance[1:]] if bidirectional else [0] * farthest
    return np.array([*before, of_distance[0], *after], np.int32)


def _bucket(n: int, side: int, exact: int, farthest: int) -> int:
    """The largest bucket whose first distance is not more than n."""
    if n < exact:
        return n
    steps = side - exact
    # log(n / e) / log(m / e) * steps >= k  is  (n / e) ** steps >= (m / e) ** k, in integers.
    reached = (k for k in range(steps) if n**steps * exact**k >= farthest**k * exact**steps)
    return exact + max(reached)
