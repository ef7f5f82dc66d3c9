"""Packed documents as a layer: the ids move with the model, and change from batch to batch.

    ids[q] == ids[kv]

Source: Krell et al. 2021, https://arxiv.org/abs/2107.02027; see `document`. By offsets it is
another layer, `PackedDocuments`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from ..tables.document_ids import document_ids
from .module import ModModule
from .packed_documents import PackedDocuments


class DocumentMask(ModModule):
    """Pass it as `mask=`, or combine it: `documents & fx.stdlib.causal()`.

    Attributes:
        ids: int buffer [length] or [batch, length], not saved; assign the next batch's.
    """

    kind: Literal["mask", "score"] = "mask"
    ids: torch.Tensor

    def __init__(self, ids: Any) -> None:
        """Take the document of each position.

        Args:
            ids: int tensor or array [length] or [batch, length].

        Raises:
            ArgumentError: ids is no such array.
        """
        super().__init__()
        self.register_buffer("ids", torch.as_tensor(document_ids(ids)), persistent=False)

    @classmethod
    def from_offsets(cls, cu_seqlens: Any, *, length: int | None = None) -> PackedDocuments:
        """From the offsets of variable-length kernels, as `PackedDocuments` takes them.

        Raises:
            ArgumentError: the offsets do not ascend from 0, or are more than `length`.
        """
        return PackedDocuments(cu_seqlens, length=length)

    def forward(self, b: Any, h: Any, q: Any, kv: Any) -> Any:
        """Are the query and the key of one document?"""
        ids = self.ids
        return ids[b, q] == ids[b, kv] if ids.dim() == 2 else ids[q] == ids[kv]
