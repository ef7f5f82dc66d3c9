"""The turns that the two consumers of a forward kernel take at the softmax of their tiles.

The second one computes that of a tile after the first one, and the first one that of the next tile
after the second one. So one has the units of exponentials for itself while the tensor cores work
for the other. Left alone, both compute at once, and wait at once for products.

Measured on an H100 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26), microseconds without turns and
with them: packed documents 551 and 540, causal ones 315 and 306, plain causal 872 and 862, a window
264 and 261, at D 64 355 and 346, block diffusion 941 and 926; 512 tokens, causal, 17.1 and 16.4.
Not without a mask (1634 and 1688, full), with three consumers (1125 and 1157, D 64 causal), or at
D 256 (850 and 866, causal); tables whose masks are read as bits are the same within 1 %. Nor where
consumers skip tiles: each has another number of them.
"""

from __future__ import annotations

from ..kernel import KernelSpec
from ..writer import Block

_TURN = "softmax_turn"


def barriers(spec: KernelSpec) -> dict[str, str]:
    """Places and arrivals of the barriers of turns, by name; none where no turns are taken."""
    few = max(spec.head_dim, spec.value_dim) <= 128 and spec.consumers == 2
    return {_TURN: "2, 1"} if few and spec.mask is not None and not spec.skips else {}


def write_wait(body: Block, spec: KernelSpec) -> None:
    """Write the wait for a consumer's turn at the tile at hand, which is counted."""
    if barriers(spec):
        body.line(f"mbarrier.wait({_TURN}.index(GROUP), at + GROUP & 1)")


def write_pass(body: Block, spec: KernelSpec) -> None:
    """Write that it is the other consumer's turn."""
    if barriers(spec):
        body.line(f"mbarrier.arrive({_TURN}.index(1 - GROUP), count=1)")
