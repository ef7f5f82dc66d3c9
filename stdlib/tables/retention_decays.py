"""The decay of each head of a retentive network.

    gamma = 1 - 2 ** (-5 - h)

Source: Sun et al. 2023, "Retentive Network: A Successor to Transformer for Large Language Models",
https://arxiv.org/abs/2307.08621.
"""

from __future__ import annotations

from typing import Any

from ..arguments import integer_at_least


def retention_decays(heads: int) -> Any:
    """The decays of `heads` heads, a numpy float32 array [heads].

    Raises:
        ArgumentError: heads is not an integer of at least 1.
    """
    import numpy as np

    count = integer_at_least(1, "heads", heads)
    return (1 - 2.0 ** (-5.0 - np.arange(count))).astype(np.float32)
