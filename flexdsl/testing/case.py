"""One drawn call of attention: its sizes, and the tensors that they and a seed stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_STEP = 0.25  # between elements where a score must be exact
_OFF_GRID = 2.0**-10  # keeps every exact score off the numbers that people compare with


@dataclass(frozen=True, kw_only=True)
class Case:
    """The sizes of a call; every field has the value that a failing case shrinks to.

    Attributes:
        q_len, kv_len: numbers of queries and keys.
        heads, kv_heads: query heads, and key heads, which divide them.
        dim, v_dim: elements of a query or key, and of a value.
        q_offset: position of the first query.
        tile: rows and columns of a tile of the plan.
        dtype: of q, k and v.
        scale: factor of the scores; None for 1 / sqrt(dim).
        strided: q, k and v are views of [B, L, H, D] tensors.
        padding: keys that the padding law adds at the end.
        seed: of the elements.
        contents: what captured tensors hold: "own", or "shuffled", "sorted" or "constant".
        parameters: captured numbers in place of the mod's own, by name.
    """

    q_len: int = 1
    kv_len: int = 1
    batch: int = 1
    heads: int = 1
    kv_heads: int = 1
    dim: int = 16
    v_dim: int = 16
    q_offset: int = 0
    tile: tuple[int, int] = (1, 1)
    dtype: str = "float32"
    scale: float | None = None
    strided: bool = False
    padding: int = 1
    seed: int = 0
    contents: str = "own"
    parameters: tuple[tuple[str, int | float], ...] = ()

    @property
    def pairs(self) -> tuple[int, int, int, int]:
        """Shape of the scores: [batch, heads, q_len, kv_len]."""
        return self.batch, self.heads, self.q_len, self.kv_len

    @property
    def factor(self) -> float:
        """The factor of the scores as a number."""
        return 1.0 / math.sqrt(self.dim) if self.scale is None else self.scale

    def tensors(self, device: torch.device, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, H, Lq, D], k [B, Hkv, Lkv, D] and v [B, Hkv, Lkv, Dv] of normal elements.

        Args:
            exact: elements such that every scaled score is exact in float32 and in no case a
                round number, for scores that jump or have corners.
        """
        generator = torch.Generator().manual_seed(self.seed)
        query = (self.batch, self.heads, self.q_len, self.dim)
        key = (self.batch, self.kv_heads, self.kv_len, self.dim)
        value = (*key[:3], self.v_dim)
        drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in (query, key)]
        if exact:
            drawn = [(x.clamp(-4, 4) / _STEP).round() * _STEP for x in drawn]
            drawn[0][..., 0], drawn[1][..., 0] = 1.0, _OFF_GRID
        drawn.append(torch.randn(value, generator=generator, dtype=torch.float64))
        q, k, v = (self._placed(x, device) for x in drawn)
        return q, k, v

    def like(self, *tensors: Tensor) -> list[Tensor]:
        """A tensor of normal elements for each of `tensors`, of its shape, dtype and device."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        drawn = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in tensors)
        return [d.to(x) for d, x in zip(drawn, tensors, strict=True)]

    def _placed(self, x: Tensor, device: torch.device) -> Tensor:
        x = x.to(device, DTYPES[self.dtype])
        return x.transpose(1, 2).contiguous().transpose(1, 2) if self.strided else x
