"""MoA's elastic spans: how many keys a head keeps for a length, by its own line.

    cache = max(min(int(alpha + length * beta), length), 128) rounded up to blocks of 64 keys
    sink = min(cache, 64),  local = cache - sink

Source: Fu et al. 2024, "MoA: Mixture of Sparse Attention for Automatic Large Language Model
Compression", https://arxiv.org/abs/2406.14909, and its code's cache.
"""

from __future__ import annotations

from typing import Any

from ..arguments import array_of, check_shape, host_array, integer_at_least


def moa_spans(alpha: Any, beta: Any, length: int, block: int = 64) -> tuple[Any, Any]:
    """Sink blocks and local blocks of each head, int32 arrays [heads], for `elastic_window`.

    Args:
        alpha, beta: floats [heads]: a head keeps `alpha + beta * length` keys.
        length: tokens of the prompt and of what is to be generated.
        block: tokens of a block, which is also the sink and half of the least span.

    Raises:
        ArgumentError: alpha and beta are not of one length, or length is less than 1.

    moa_spans([0.0], [0.25], 4096) is ([1], [15]).
    """
    import numpy as np

    starts = array_of("alpha", alpha, (1,), "float")
    slopes = array_of("beta", beta, (1,), "float")
    check_shape("beta", slopes, tuple(starts.shape), "as many as alpha")
    length = integer_at_least(1, "length", length)
    block = integer_at_least(1, "block", block)
    # In double precision, as the code has it: 0.7 * 1000 is 700 keys.
    starts, slopes = (np.asarray(host_array(x), np.float64) for x in (alpha, beta))
    spans = np.trunc(starts + slopes * length)
    kept = np.clip(spans, 2 * block, max(length, 2 * block))
    blocks = np.ceil(kept / block).astype(np.int32)
    sinks = np.minimum(blocks, 1)
    return sinks, blocks - sinks
