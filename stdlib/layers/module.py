"""What the layers share: a torch module that is itself a mask or a score modification."""

from __future__ import annotations

from typing import Any, Literal

import torch

import flexdsl as fx


class ModModule(torch.nn.Module):
    """A module to pass as `mask=` or `score=`: attention calls it for a pair, and learns it.

    A subclass has `forward` of `(b, h, q, kv)` or `(score, b, h, q, kv)`, which reads its
    parameters and buffers there, so that what is loaded, moved or copied is what is used.
    """

    kind: Literal["mask", "score"] = "score"

    def mod(self) -> fx.Mod:
        """This module as a `Mod`, which torch.compile needs; made outside of what is compiled."""
        return fx.mask_mod(self.forward) if self.kind == "mask" else fx.score_mod(self.forward)

    def __and__(self, other: Any) -> fx.Mod:
        return self.mod() & other

    def __or__(self, other: Any) -> fx.Mod:
        return self.mod() | other

    def __invert__(self) -> fx.Mod:
        return ~self.mod()
