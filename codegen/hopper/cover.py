"""Which calls the Hopper kernels take; for the others, the reason, which users are shown.

What the runtime does then (take the portable kernel, or refuse) is not decided here.
"""

from __future__ import annotations

from collections.abc import Collection

from flexdsl.analysis.gradient import LearnedLoad, Reduction

from .backward_tiles import tile_columns

# (D, Dv): a value's pieces must be those of a query, whose place in shared memory the output takes.
HEAD_DIMS = frozenset({(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)})
# Columns of products (`factors.py`) that shared memory has room for in the backward kernel, by the
# columns of its tiles.
_COLUMNS = {64: 16, 128: 32, 192: 32, 256: 16}


def reason_not_covered(capability: int, dtype: str, head_dim: int, value_dim: int) -> str | None:
    """Why a call cannot run on the Hopper kernels; None where it can.

    Args:
        capability: of an NVIDIA GPU, 90 for Hopper; 0 for any other device.
        dtype: of query, key and value: "fp16", "bf16", or any other name.
    """
    if capability != 90:
        return "the GPU is not of compute capability 9.0 (Hopper)"
    if dtype not in ("fp16", "bf16"):
        return f"its matrix products take 16-bit elements, not {dtype}"
    if (head_dim, value_dim) not in HEAD_DIMS:
        known = ", ".join(f"{d}" if d == dv else f"{d}/{dv}" for d, dv in sorted(HEAD_DIMS))
        return f"head dimensions {head_dim}/{value_dim} are none of {known}"
    return None


def backward_reason(
    head_dim: int,
    rows: int,
    learned: Collection[LearnedLoad],
    deterministic: bool,
    columns: int = 0,
) -> str | None:
    """Why the backward pass of a call that is covered takes the portable kernels, or None.

    Args:
        rows: query rows of all heads and batches.
        learned: the loads of captured tensors that need a gradient.
        deterministic: dQ has to be the same in every run, to the last bit.
        columns: of the matrices whose product is added to the scores.
    """
    # Each kernel of captured tensors alone has two products a tile. With one of them the two
    # portable kernels' seven are those of the backward kernel, five, and two; with both it is more.
    # On an H100 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26), N 4096, causal, milliseconds by the
    # portable kernels and beside the backward kernel: a relative bias, D 64 3.37 and 2.48, D 128
    # 4.16 and 3.12, D 256 10.25 and 4.68; T5's buckets 8.57 and 3.57; a bias of each key 1.37 and
    # 1.24; of each pair of tokens, D 64 10.7 and 9.8; slopes 1.12 and 1.13, D 64 0.77 and 0.87.
    by_keys = _names(learned, Reduction.KEY)
    by_rows = _names(learned, Reduction.QUERY, Reduction.PAIR)
    if by_keys and by_rows:
        return (
            f"beside it the gradient of {by_rows} would take a kernel by rows, and that of"
            f" {by_keys} one by keys; those of dQ, dK and dV add up both in passing"
        )
    if head_dim <= 64 and (in_passing := _names(learned, Reduction.QUERY, Reduction.KEY)):
        return (
            f"at head dimension {head_dim} the portable kernels are faster: they add up the"
            f" gradient of {in_passing} in passing"
        )
    if deterministic:
        return "it adds dQ up by atomics, and deterministic algorithms were asked for"
    if rows >= 2**31:
        return "it counts the rows of all heads in 32 bits"
    if columns > (most := _COLUMNS[tile_columns(head_dim)]):
        return f"its shared memory has room for {most} columns of products, not for {columns}"
    return None


def _names(learned: Collection[LearnedLoad], *reductions: Reduction) -> str:
    """The captured tensors whose gradients are added up in one of these ways, in words."""
    found = dict.fromkeys(load.capture for load in learned if load.reduction in reductions)
    return " and ".join(found)
