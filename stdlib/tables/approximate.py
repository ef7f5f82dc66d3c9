"""A table of biases as two thin matrices: the best ones of their rank, and what they miss.

    table = U S V^T;  q_factors = U sqrt(S), k_factors = V sqrt(S), the first `rank` columns of each

Source: Eckart and Young 1936, https://doi.org/10.1007/BF02288367; used so in Wu et al. 2025,
"FlashBias", https://arxiv.org/abs/2505.12044, which keeps 99.5% of the energy of Swin's tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arguments import array_of, host_array, integer_at_least, refuse


@dataclass(frozen=True)
class Factors:
    """Factors for `lowrank_bias`, and how near they come.

    Attributes:
        q_factors, k_factors: float32 arrays [..., q_len, rank] and [..., kv_len, rank].
        energy: share of the sum of squares that is kept, the least over the leading dimensions.
        error: largest difference to the table at any pair.
    """

    q_factors: Any
    k_factors: Any
    energy: float
    error: float

    @property
    def rank(self) -> int:
        """Columns of each factor."""
        return int(self.q_factors.shape[-1])


def approximate(table: Any, *, rank: int | None = None, energy: float | None = None) -> Factors:
    """Factors of a bias table, by singular values.

    Args:
        table: float array or tensor [q_len, kv_len], or with [heads] or [batch, heads] before.
        rank: number of columns; instead of
        energy: least share of the sum of squares to keep, in (0, 1]: the smallest such rank.

    Raises:
        ArgumentError: not exactly one of rank and energy is given, or it is out of its range.
    """
    import numpy as np

    if (rank is None) == (energy is None):
        raise refuse("approximate takes a rank or an energy, and one of them", "energy=0.995")
    share = 1.0 if energy is None else energy
    if not 0 < share <= 1:
        raise refuse(f"energy is {share!r}, but it must be in (0, 1]", "energy=0.995")
    dense = np.asarray(host_array(array_of("table", table, (2, 3, 4), "float")), np.float64)
    u, s, vt = np.linalg.svd(dense, full_matrices=False)
    total = np.maximum((s**2).sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    kept = np.minimum((s**2).cumsum(axis=-1) / total, 1.0).reshape(-1, s.shape[-1]).min(axis=0)
    if rank is None:
        rank = min(int((kept < share - 1e-12).sum()) + 1, s.shape[-1])
    rank = integer_at_least(1, "rank", rank)
    if rank > s.shape[-1]:
        raise refuse(f"rank is {rank}, but the table has rank {s.shape[-1]} at most")
    root = np.sqrt(s[..., None, :rank])
    q_factors = u[..., :rank] * root
    k_factors = np.swapaxes(vt[..., :rank, :], -1, -2) * root
    error = float(np.abs(q_factors @ np.swapaxes(k_factors, -1, -2) - dense).max())
    single = (q_factors.astype(np.float32), k_factors.astype(np.float32))
    return Factors(*single, float(kept[rank - 1]), error)
