"""Flamingo's cross-attention: text sees the images of its own passage.

    first[kv // tokens_per_image] <= q < last[kv // tokens_per_image]

Source: Alayrac et al. 2022, "Flamingo: a Visual Language Model for Few-Shot Learning",
https://arxiv.org/abs/2204.14198; in the form of attention-gym's flamingo.py.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, check_shape, integer_at_least


def flamingo(intervals: Any, tokens_per_image: int) -> fx.Mod:
    """Queries are text tokens, keys the tokens of the images, one image after the other.

    Args:
        intervals: int array or tensor [images, 2]: the text tokens that see an image, from the
            first (inclusive) to the last (exclusive).
        tokens_per_image: keys of each image.

    Raises:
        ArgumentError: the intervals are no such array, or tokens_per_image is less than 1.

    flamingo([[0, 4], [1, 4], [4, 6]], 2), queries down, keys across:

        # # . . . .
        # # # # . .
        # # # # . .
        # # # # . .
        . . . . # #
        . . . . # #
    """
    seen = array_of("intervals", intervals, (2,), "int")
    check_shape("intervals", seen, (None, 2), "images, then first and last text token")
    tokens = integer_at_least(1, "tokens_per_image", tokens_per_image)

    @fx.mask_mod
    def flamingo(b: int, h: int, q: int, kv: int) -> bool:
        image = kv // tokens
        return seen[image, 0] <= q and q < seen[image, 1]

    return flamingo
