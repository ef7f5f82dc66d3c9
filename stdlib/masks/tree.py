"""Tree attention of speculative decoding: candidates see the prefix and their own ancestors.

    kv < prefix  or  node kv - prefix is q or an ancestor of q

Source: Cai et al. 2024, "Medusa", https://arxiv.org/abs/2401.10774 (`tree(medusa_parents(...))`);
Yang et al. 2025, "LongSpec", https://arxiv.org/abs/2502.17421. The position of a node, for rotary
embeddings, is prefix + its depth.

Claim (the papers', not measured here): Medusa 2.2 to 3.6 times, LongSpec up to 3.26 times as fast.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import integer_at_least, integers_at_least, refuse


def tree(parents: Any, prefix: int = 0) -> fx.Mod:
    """Queries are the nodes of a tree; keys are the prefix and then the nodes.

    Args:
        parents: for each node the number of its parent, which comes before it; -1 for a root.
        prefix: keys before the tree, which every node sees.

    Raises:
        ArgumentError: a parent does not come before its child, or prefix is less than 0.

    tree([-1, 0, 0, 1, 1, 2, 4], 2), queries down, keys across:

        # # # . . . . . .
        # # # # . . . . .
        # # # . # . . . .
        # # # # . # . . .
        # # # # . . # . .
        # # # . # . . # .
        # # # # . . # . #
    """
    import numpy as np

    nodes = integers_at_least(-1, "parents", parents)
    prefix = integer_at_least(0, "prefix", prefix)
    ancestors = np.eye(len(nodes), dtype=np.bool_)
    for node, parent in enumerate(nodes):
        if parent >= node:
            raise refuse(f"parents[{node}] is {parent}, but a parent must come before its child")
        if parent >= 0:
            ancestors[node] |= ancestors[parent]

    @fx.mask_mod
    def tree(b: int, h: int, q: int, kv: int) -> bool:
        return kv < prefix or ancestors[q, fx.maximum(kv - prefix, 0)]

    return tree
