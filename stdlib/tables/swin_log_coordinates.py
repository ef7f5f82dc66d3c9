"""Swin V2's log-spaced coordinates: what its small network turns into biases.

    sign(x) * log2(abs(x) + 1) / log2(8),  x = 8 * offset / (window - 1)

Source: Liu et al. 2022, "Swin Transformer V2", https://arxiv.org/abs/2111.09883, and its code.
"""

from __future__ import annotations

from typing import Any

from ..arguments import integer_at_least, integers_at_least


def swin_log_coordinates(window: Any, pretrained: int | None = None) -> Any:
    """A numpy float32 array [(2 * rows - 1) * (2 * columns - 1), 2], in the order of `swin_bias`.

    Args:
        window: rows and columns of the window, at least 2; one number for both.
        pretrained: window that the network was trained with, in place of this one's size.

    Raises:
        ArgumentError: a size is not an integer of at least 2.
    """
    import numpy as np

    axes = []
    for size in integers_at_least(2, "window", window, 2):
        base = size if pretrained is None else integer_at_least(2, "pretrained", pretrained)
        x = 8.0 * np.arange(1 - size, size) / (base - 1)
        axes.append(np.sign(x) * np.log2(np.abs(x) + 1) / 3)
    down, across = np.meshgrid(*axes, indexing="ij")
    return np.stack([down.ravel(), across.ravel()], axis=1).astype(np.float32)
