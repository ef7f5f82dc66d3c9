"""What the two consumers of the Hopper backward kernel do with a work of many columns.

dK and dV of 64 keys take (D + Dv) / 2 registers of each of 128 threads, which from D 192 on are
more than there are beside scores and dQ. So each of the two has 64 keys by the columns of one
result, and both have the same keys:

    of values   S = K Q^T, weights P^T                    dV += P^T dO   left half of dQ
    of keys     dP = V dO^T, dS = P^T slope (dP - delta)  dK += dS Q     right half of dQ

Each has about half of the five products of a tile. The first one gives P^T slope to the other one
in 16 bits, as P^T enters dV; that one leaves dS where both read it. dQ of a tile, dS^T K, is
computed in the step of the next one. The order of issue: S, (weights), dV, dQ of the tile before;
and dP, (dS), dQ of the tile before, dK, which is in flight over the end of the loop.

Who waits for whom. The first one stores `factor` of tile i after dS of i - 1 is there: the other
one has read `factor` of i - 1 by then, whose place it takes. The second one stores dS of tile i
after `factor` of i is there: the first one has had dQ of i - 2 by then, so two places of dS are
enough. When dS of the last tile of a work is there, values are no longer read, and dV passes their
place; dK passes that of keys once the first one has said that it is done with those.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..kernel import KernelSpec
from ..lower import Lowering
from ..writer import Block
from .backward_shared import Consumers, barriers
from .module import CONSTANTS, Partition, allocate_scores, names_of_mods
from .wide_keys import write_consumer_of_keys
from .wide_queries import D_SCORES_PLACES
from .wide_values import write_consumer_of_values
from .works import Works

_BARRIERS = {
    "factor_ready": "1, 1",
    "d_scores_ready": f"{D_SCORES_PLACES}, 1",
    "keys_read": "1, 1",
}


def _write_tiles(body: Block, spec: KernelSpec) -> list[str]:
    """Write the allocations of what the consumers give each other; the names."""
    body.comment("Weights times derivatives of a tile, and dS of the last two.")
    factor = allocate_scores(body, "factor_tiles", spec.head_dim, 1)
    return factor + allocate_scores(body, "d_scores_tiles", spec.head_dim, D_SCORES_PLACES)


def _partitions(
    spec: KernelSpec, works: Works, lowering: Lowering, given: Sequence[str]
) -> list[tuple[Partition, list[str]]]:
    """The function of each consumer."""
    values, keys = Block(1), Block(1)
    write_consumer_of_values(values, spec, works, lowering)
    write_consumer_of_keys(keys, spec, works)
    title = "One warpgroup: {} of 64 keys of each work, and its part of dQ."
    of_values = (*given, *names_of_mods(lowering))
    partitions = (
        Partition("consumer_of_values", title.format("dV"), CONSTANTS, of_values, values),
        Partition("consumer_of_keys", title.format("dK"), CONSTANTS, tuple(given), keys),
    )
    return [(partition, [partition.call()]) for partition in partitions]


OF_ONE_RESULT_EACH = Consumers(1, barriers(1, _BARRIERS), _write_tiles, _partitions)
