"""Dual chunk attention's positions: distances beyond what a model was trained on are kept short.

    score + table[position(q) - kv % s, h],  s = chunk - local,  c = q // s - kv // s
    position(q): q % s for c = 0;  min(q % s + s, chunk) for c = 1;  min(2 * s - 1, chunk) for c > 1

Source: An et al. 2024, "Training-Free Long-Context Scaling of Large Language Models",
https://arxiv.org/abs/2402.17463, and https://github.com/HKUNLP/ChunkLlama. There the positions turn
rotary embeddings, which no score modification does; here they pick a learned bias. Distances are
exact up to `local`, and lie in [0, chunk]. Use it with a causal mask; later keys have distance 0.

Claim (the paper's, not measured here): more than 100k tokens of context without training.
"""

from __future__ import annotations

from typing import Any

import flexdsl as fx

from ..arguments import array_of, check_shape, integer_at_least, refuse


def dual_chunk_bias(table: Any, chunk: int, local: int) -> fx.Mod:
    """A bias by relative position, which dual chunks keep in [0, chunk].

    Args:
        table: float array or tensor [chunk + 1, heads].
        chunk: largest position, which is 3/4 of the trained length in the paper.
        local: distances up to here, inclusive, stay as they are; 1/8 of the trained length there.

    Raises:
        ArgumentError: the table has another length, or local is not less than chunk.

    dual_chunk_bias([[0.0], [1.0], [2.0], [3.0]], 3, 1), of a score of 0:

        0 0 0 0
        1 0 0 0
        2 1 0 0
        3 2 1 0
    """
    chunk = integer_at_least(2, "chunk", chunk)
    size = chunk - integer_at_least(1, "local", local)
    if size < 1:
        raise refuse(f"local is {local}, but it must be less than chunk, {chunk}")
    biases = array_of("table", table, (2,), "float")
    check_shape("table", biases, (chunk + 1, None), "positions 0 to chunk, heads")

    @fx.score_mod
    def dual_chunk_bias(score: float, b: int, h: int, q: int, kv: int) -> float:
        # The three cases in one, since they are q - kv until the last position is reached.
        position = fx.minimum(q - kv, fx.minimum(2 * size - 1, chunk) - kv % size)
        return score + biases[fx.maximum(position, 0), h]

    return dual_chunk_bias
