"""Packed documents by their offsets as a layer: the next batch's are written in place.

    first[q] <= kv < stop[q]

Source: Krell et al. 2021, https://arxiv.org/abs/2107.02027; see `document`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

import flexdsl as fx

from ..tables.document_ends import document_ends
from .module import ModModule


class PackedDocuments(ModModule):
    """Pass it as `mask=`, or combine it: `documents & fx.stdlib.causal()`.

    Attributes:
        first, stop: int32 buffers [length], not saved: where the document of each position begins
            (inclusive) and ends (exclusive).
    """

    kind: Literal["mask", "score"] = "mask"
    first: torch.Tensor
    stop: torch.Tensor

    def __init__(self, offsets: Any, *, length: int | None = None) -> None:
        """Take the offsets of the first batch's documents.

        Args:
            offsets, length: as in `document`. The layer is on the device of the offsets.

        Raises:
            ArgumentError: the offsets do not ascend from 0, or are more than `length`.
        """
        super().__init__()
        first, stop = document_ends(offsets, length=length)
        self.register_buffer("first", torch.as_tensor(first), persistent=False)
        self.register_buffer("stop", torch.as_tensor(stop), persistent=False)

    def pack(self, offsets: Any) -> None:
        """Take the next batch's offsets, of as many positions; a CUDA graph records that.

        Args:
            offsets: as in `document`; on another device than the host they are not checked.

        Raises:
            ArgumentError: the offsets do not ascend from 0, or are more than the positions.
        """
        ends = document_ends(offsets, length=len(self.first))
        for buffer, found in zip((self.first, self.stop), ends, strict=True):
            buffer.copy_(torch.as_tensor(found))

    def forward(self, b: Any, h: Any, q: Any, kv: Any) -> Any:
        """Is the key in the document of the query?"""
        return fx.minimum(self.first[q], q) <= kv and kv < fx.maximum(self.stop[q], q + 1)
