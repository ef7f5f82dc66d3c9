"""Whether a forward pass of few queries is split along the keys, and into how many parts.

The ordinary kernel has a program for each query head and tile of queries. Where a tile is mostly
empty, query heads that share a key head can share a program, which reads its keys once; and where
programs are few, several can share the keys of each. Both are what two kernels do
(`codegen/split.py`); which of them are launched, and on what, is for `triton_forward.py`.

Measured on an H100 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26), one query, 32:8 heads, D 128,
microseconds by two, three and four programs of a multiprocessor: 8 batches of 32768 keys 369, 378
and 394, one of 131072 keys 202, 200 and 207 (the bytes alone take 320 and 160); by the ordinary
kernel 723 and 1407. One batch of 512 to 4096 keys: 14 to 20, and 15 to 52. Other numbers here are
from what a program loads at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from flexdsl.analysis import BlockPlan
from flexdsl.runtime import machine
from flexdsl.runtime.bind import Bound
from flexdsl.runtime.call import Call

ROWS = (16, 32, 64)  # of a program's tile; a matrix product takes 16
MOST_ROWS = ROWS[-1]  # queries of all its heads
_FEWEST_TILES = 4  # live ones of a split: fewer are not worth being merged
_AT_A_TIME = 2  # programs of a multiprocessor
_START = 3  # tiles in whose time a program begins and ends
_MOST_WAVES = 8  # of programs one after the other: more have nothing to even out
_INTERPRETED = 4  # multiprocessors that a CPU stands for


@dataclass(frozen=True, slots=True)
class Splits:
    """How a forward pass of few queries is split.

    Attributes:
        count: parts of the keys; programs that share those of a head.
        packed: query heads that share a program.
    """

    count: int
    packed: int

    @property
    def sizes(self) -> dict[str, int]:
        """What kernels are told of it."""
        return {"splits": self.count, "packed": self.packed}


def packed_heads(call: Call) -> int:
    """How many query heads can share a program; 0 where a head has too many queries by itself."""
    q_len, group = call.bound.lengths.q_len, _group(call)
    shared = 1 if _tells_heads_apart(call.bound) else group
    fitting = (n for n in range(1, shared + 1) if group % n == 0 and n * q_len <= MOST_ROWS)
    return max(fitting, default=0)


def rows_of(q_len: int, packed: int) -> int:
    """Rows of a program's tile: one of `ROWS`."""
    return next(rows for rows in ROWS if packed * q_len <= rows)


def find_splits(call: Call, plan: BlockPlan, packed: int) -> Splits | None:
    """How a call is split; None where the ordinary kernel does as well.

    Args:
        plan: of the kernel that has the parts.
        packed: query heads that share a program.
    """
    lengths, tiles = call.bound.lengths, _live_tiles(plan)
    most = tiles // _FEWEST_TILES
    if most < 2:
        return None
    programs = lengths.batch * lengths.heads // packed
    at_a_time = _AT_A_TIME * _multiprocessors(call.device)
    # More splits in as many waves take no longer.
    fitting = (waves * at_a_time // programs for waves in range(1, _MOST_WAVES + 1))
    counts = sorted({min(max(n, 1), most) for n in fitting})
    count = min(counts, key=lambda n: ceil(programs * n / at_a_time) * (ceil(tiles / n) + _START))
    return Splits(count, packed) if count * packed > 1 else None


def _group(call: Call) -> int:
    return call.bound.lengths.heads // call.tensors["key"].shape[1]


def _tells_heads_apart(bound: Bound) -> bool:
    """May heads have different tiles?"""
    of_plan = bound.plan is not None and bound.plan.depends_on_head
    return of_plan or (bound.mask is not None and "h" in bound.mask.expr.variables)


def _live_tiles(plan: BlockPlan) -> int:
    """Live tiles of a head, in the mean; all tiles where only the device knows."""
    heads = plan.batch * plan.heads
    return plan.kv_tiles if plan.device is not None else plan.live_tiles // max(heads, 1)


def _multiprocessors(device: torch.device) -> int:
    on_gpu = device.type == "cuda"
    return machine.MACHINE.multiprocessors(device) if on_gpu else _INTERPRETED
