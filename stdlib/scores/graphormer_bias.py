"""Graphormer's spatial encoding: a learned number for each length of a shortest path.

    score + table[h, paths[b, q, kv]]

Source: Ying et al. 2021, "Do Transformers Really Perform Bad for Graph Representation?",
https://arxiv.org/abs/2106.05234; attention-gym's graphormer.py. The mean of the edges on the path
is a `learned_bias(edges, "bhqk")` beside it.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of


def graphormer_bias(table: Any, paths: Any) -> fx.Mod:
    """Queries and keys are the nodes of a graph.

    Args:
        table: float array or tensor [heads, lengths]; a learned one gets its gradient.
        paths: int array or tensor [nodes, nodes] or [batch, nodes, nodes], the length of the
            shortest path of each pair, less than `lengths`; unreachable pairs have one too.

    Raises:
        ArgumentError: an array has another rank or other elements.

    graphormer_bias([[0.0, 1.0, 2.0]], [[0, 1, 2], [1, 0, 1], [2, 1, 0]]), of a score of 0:

        0 1 2
        1 0 1
        2 1 0
    """
    biases = array_of("table", table, (2,), "float")
    lengths = array_of("paths", paths, (2, 3), "int")
    batched = len(lengths.shape) == 3

    @fx.score_mod
    def graphormer_bias(score: float, b: int, h: int, q: int, kv: int) -> float:
        return score + biases[h, lengths[b, q, kv] if batched else lengths[q, kv]]

    return graphormer_bias
