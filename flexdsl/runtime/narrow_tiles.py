"""Whether a Hopper GPU's forward kernel takes the keys of a mask 64 at a time, not 128.

Which configurations these are says `tuning.py`. Where captured numbers choose blocks of 64, nobody
on the host knows which: the form of the mask decides. Consumers skip tiles then that have no pair
for their own 64 rows (`part_tiles.py`), and few others have a mask. On an H200 (torch 2.11.0+cu130,
triton 3.6.0, 2026-11-27), N 16384, 16 heads, microseconds of tiles of 128 keys, each of which has
the mask evaluated or bits of it, and so: a fifth of all blocks, drawn at random for each head, 3605
and 1037, causal 2695 and 551, at D 64 2405 and 725, at D 256 3143 and 1822; half of all blocks 5515
and 2355; BigBird 389 and 214. The memory of the second level brings 5.8 TB/s of keys and values
then. Wider tiles whose consumers skip some would spill registers.

Elsewhere it is for kernels that read their mask as bits (`mask_bits.py`): their tables, and whose
rows have a pair in a tile (`own_tiles.py`), are known on the host at both widths. Of a mask whose
pairs lie close together, narrow tiles leave out more.

On an H200 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26), D 128, a work took 4.9 microseconds and
1.6 for each of its tiles in wide tiles, 3.2 and 1.05 in narrow ones; microseconds of wide and
narrow: a window on a grid 468 and 385, a neighbourhood of 13 x 13 in tiles of 8 x 8 234 and 210,
TimeSformer in time 128 and 100; and where narrow tiles leave nothing out, a neighbourhood row by
row 391 and 471, MaxViT's grid 338 and 368, temporal heads of videos 2014 and 2279.
"""

from __future__ import annotations

from flexdsl.codegen import Phase
from flexdsl.runtime.call import Call
from flexdsl.runtime.tuning import Config, blocks_config, narrow_config


def narrow_configs(call: Call, head_dim: int, wide: Config) -> tuple[Config, ...]:
    """The configuration of the forward kernel to try before `wide`, where there is one.

    Args:
        head_dim: the larger of D and Dv.
    """
    blocks, narrow = blocks_config(head_dim), narrow_config(head_dim)
    if call.chooses_blocks:
        plan = call.plan(Phase.FORWARD, blocks)
        return (blocks,) if call.takes_blocks(Phase.FORWARD, plan, blocks) else ()
    return (narrow,) if narrow is not None and narrow_pays(call, wide, narrow) else ()


def narrow_pays(call: Call, wide: Config, narrow: Config) -> bool:
    """Is the forward kernel faster with the narrow configuration, as far as the host knows?"""
    of_wide = _tiles_of_consumer(call, wide)
    of_narrow = None if of_wide is None else _tiles_of_consumer(call, narrow)
    if of_wide is None or of_narrow is None:
        return False
    plan = call.plan(Phase.FORWARD, wide)
    works = plan.batch * plan.heads * plan.q_tiles
    return 2 * of_narrow < 3 * (of_wide + works)


def _tiles_of_consumer(call: Call, config: Config) -> float | None:
    """Tiles that a consumer computes, of all works of the plan; None where nobody knows.

    They are known of kernels that read bits by a table that is made on the host.
    """
    plan = call.plan(Phase.FORWARD, config)
    if plan.kind != "table" or not call.reads_bits(Phase.FORWARD, plan, config):
        return None
    own = call.own_tiles(Phase.FORWARD, plan, config)
    if own is None:
        return plan.live_tiles
    return plan.full_tiles + (own.tiles - own.skipped) / config.consumers
