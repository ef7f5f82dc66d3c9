"""Plans as users make them: of a mask, of tiles chosen at run time, of torch's `BlockMask`.

    plan, BlockPlan    the public names: `analysis.BlockPlan`, with what needs mods or tensors
      -> block_mask    torch's BlockMask, from and to tensors of bools
      -> torch_mask    an expression as a function of torch tensors, which BlockMask carries

Tiles chosen at run time are a mask like any other: one that reads a captured tensor of bools, tile
by tile. So whatever takes a mask takes them, and nothing else in the project knows of them. torch
is imported when a BlockMask is asked for. No kernel runs here.
"""

from flexdsl.plans.block_plan import BlockPlan, plan

__all__ = ["BlockPlan", "plan"]
