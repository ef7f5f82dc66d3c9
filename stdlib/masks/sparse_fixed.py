"""Fixed attention of the Sparse Transformer: the own stretch, and the last keys of each other.

    kv <= q and (kv // stride == q // stride
                 or stride - (r + 1) * c <= kv % stride < stride - r * c)
    with c = summary, r = h % patterns

Source: Child et al. 2019, "Generating Long Sequences with Sparse Transformers",
https://arxiv.org/abs/1904.10509; heads take different summary keys as in its code's `num_verts`,
where one block is one token here.
"""

from __future__ import annotations

import flexdsl as fx

from ..arguments import integer_at_least, refuse


def sparse_fixed(stride: int, summary: int, patterns: int = 1) -> fx.Mod:
    """Each query sees its own stretch so far, and the summary keys of the stretches before.

    Args:
        stride: length of a stretch in tokens; the paper has 128.
        summary: keys at the end of a stretch that later stretches see; the paper has 8 to 32.
        patterns: number of places of the summary keys, counted from the end; head h has place
            h % patterns.

    Raises:
        ArgumentError: an argument is not an integer of at least 1, or the summaries do not fit.

    sparse_fixed(4, 1), queries down, keys across:

        # . . . . . . . . .
        # # . . . . . . . .
        # # # . . . . . . .
        # # # # . . . . . .
        . . . # # . . . . .
        . . . # # # . . . .
        . . . # # # # . . .
        . . . # # # # # . .
        . . . # . . . # # .
        . . . # . . . # # #
    """
    stride = integer_at_least(1, "stride", stride)
    summary = integer_at_least(1, "summary", summary)
    patterns = integer_at_least(1, "patterns", patterns)
    if summary * patterns > stride:
        raise refuse(
            f"summary * patterns is {summary * patterns}, which is more than stride, {stride}"
        )

    @fx.mask_mod
    def sparse_fixed(b: int, h: int, q: int, kv: int) -> bool:
        end = stride - h % patterns * summary
        place = kv % stride
        summarises = end - summary <= place and place < end
        return q >= kv and (summarises or kv // stride == q // stride)

    return sparse_fixed
