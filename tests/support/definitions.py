"""Masks of papers that tests of several rooms need, written down from their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def block_diffusion(seq_len: int, block: int) -> Callable[..., bool]:
    """Noised tokens, then as many clean ones, in blocks: BD3-LM, https://arxiv.org/abs/2503.09573.

    Args:
        seq_len: tokens of a sequence.
        block: tokens that are denoised together.
    """

    def mask(b: Any, h: Any, q: Any, kv: Any) -> Any:
        noised_q, noised_kv = q < seq_len, kv < seq_len
        of_q, of_kv = q % seq_len // block, kv % seq_len // block
        return (
            (of_q == of_kv and noised_q == noised_kv)
            or (of_q > of_kv and noised_q and not noised_kv)
            or (of_q >= of_kv and not noised_q and not noised_kv)
        )

    return mask
