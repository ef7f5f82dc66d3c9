"""torch's BlockMask, made of a plan's tiles, and read into tensors of bools.

A tile that the lengths cut is partial in a BlockMask, as torch makes it too. Nothing here waits for
a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, noop_mask

from flexdsl.ir import captures_of
from flexdsl.plans.torch_mask import mask_function

if TYPE_CHECKING:
    from flexdsl.analysis import BlockPlan


def is_block_mask(value: Any) -> bool:
    """Is it a BlockMask of batches and heads?"""
    return isinstance(value, BlockMask) and value.kv_indices.dim() == 4


def mask_mod_of(block_mask: BlockMask) -> Any:
    """The function of its mask, None where that allows every pair."""
    return None if block_mask.mask_mod is noop_mask else block_mask.mask_mod


def chosen_blocks(block_mask: BlockMask) -> tuple[Tensor, Tensor | None]:
    """Bool [B, H, q tiles, kv tiles] of the tiles under its mask, and of its full tiles, if any."""
    columns = -(-block_mask.seq_lengths[1] // block_mask.BLOCK_SIZE[1])
    partial = _dense(block_mask.kv_num_blocks, block_mask.kv_indices, columns)
    if block_mask.full_kv_num_blocks is None or block_mask.full_kv_indices is None:
        return partial, None
    return partial, _dense(block_mask.full_kv_num_blocks, block_mask.full_kv_indices, columns)


def _dense(counts: Tensor, indices: Tensor, columns: int) -> Tensor:
    """Which columns are among the first `counts` [...] of `indices` [..., n]."""
    listed = torch.arange(indices.shape[-1], device=indices.device) < counts.unsqueeze(-1)
    # What is not listed goes to a column past the end.
    places = torch.where(listed, indices, columns).long()
    dense = torch.zeros((*indices.shape[:-1], columns + 1), dtype=torch.bool, device=indices.device)
    return dense.scatter_(-1, places, True)[..., :columns].contiguous()


def make_block_mask(plan: BlockPlan, device: Any = None) -> BlockMask:
    """The BlockMask of a plan that has pairs; see `BlockPlan.to_block_mask`."""
    program = plan.mask
    tensors = [] if program is None else [program.values[c.name] for c in captures_of(program.expr)]
    if device is None:
        device = next((t.device for t in tensors if isinstance(t, Tensor)), torch.device("cpu"))
    states = torch.from_numpy(plan.states()).to(device)
    full = states == 2
    for axis, length in ((2, plan.q_len), (3, plan.kv_len)):
        if length % plan.tile_shape[axis - 2]:
            full.select(axis, -1).fill_(False)
    function = None
    if program is not None:
        function = mask_function(program, plan.q_offset, torch.device(device))
    return BlockMask.from_kv_blocks(
        *_ordered((states > 0) & ~full),
        *_ordered(full),
        BLOCK_SIZE=plan.tile_shape,
        mask_mod=function,
        seq_lengths=(plan.q_len, plan.kv_len),
    )


def _ordered(dense: Tensor) -> tuple[Tensor, Tensor]:
    """How many columns of each row are true, and all columns, those first."""
    order = torch.argsort(dense.to(torch.int8), dim=-1, descending=True, stable=True)
    return dense.sum(-1, dtype=torch.int32), order.to(torch.int32)
