"""The kernels of attention and of its plans, by name, and which of them a backward pass has.

Whether a call takes those of a Hopper GPU is decided in `hopper/cover.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from flexdsl.analysis.gradient import LearnedLoad, Reduction
from flexdsl.errors import ArgumentError


class Phase(Enum):
    """One of the kernels of attention or of its plan, by the name of its entry.

    Those of a backward pass run in this order.
    """

    FACTORS = "factors"
    DIFFERENCES = "differences"
    FORWARD = "forward"
    FORWARD_SPLIT = "forward_split"
    FORWARD_MERGE = "forward_merge"
    BACKWARD_ROWS = "backward_rows"
    BACKWARD_QUERY = "backward_query"
    BACKWARD_KEY = "backward_key"
    BACKWARD = "backward"
    BACKWARD_SUMS = "backward_sums"
    BACKWARD_LEARNED_QUERY = "backward_learned_query"
    BACKWARD_LEARNED_KEY = "backward_learned_key"
    BACKWARD_DIAGONAL = "backward_diagonal"
    PLAN_STATES = "plan_states"
    PLAN_REFINE = "plan_refine"
    PLAN_COUNTS = "plan_counts"
    PLAN_RUNS = "plan_runs"
    MASK_BITS = "mask_bits"
    MASK_BITS_KEY = "mask_bits_key"


# Those whose programs have a key tile each and loop over query tiles.
OF_KEYS = (Phase.BACKWARD_KEY, Phase.BACKWARD, Phase.BACKWARD_LEARNED_KEY)
# Those that add up gradients of captured tensors, and nothing else.
_OF_LEARNED = {
    Reduction.QUERY: Phase.BACKWARD_LEARNED_QUERY,
    Reduction.PAIR: Phase.BACKWARD_LEARNED_QUERY,
    Reduction.KEY: Phase.BACKWARD_LEARNED_KEY,
    Reduction.DIAGONAL: Phase.BACKWARD_DIAGONAL,
}


def backward_phases(learned: Collection[LearnedLoad], *, hopper: bool) -> tuple[Phase, ...]:
    """The kernels of a backward pass, in the order in which they run.

    Args:
        learned: the loads of captured tensors whose gradients are wanted.
        hopper: dQ, dK and dV are by the one kernel of a Hopper GPU. Those of the portable kernels
            add up by rows, by keys and by pairs in passing.
    """
    of_learned = {_OF_LEARNED[load.reduction] for load in learned}
    if hopper:
        found = {Phase.BACKWARD_ROWS, Phase.BACKWARD, Phase.BACKWARD_SUMS, *of_learned}
    else:
        found = {Phase.BACKWARD_ROWS, Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY}
        found |= of_learned & {Phase.BACKWARD_DIAGONAL}
    return tuple(phase for phase in Phase if phase in found)


def parse_phase(name: str) -> Phase:
    """The phase of that name.

    Raises:
        ArgumentError: there is none.
    """
    if name not in {p.value for p in Phase}:
        known = ", ".join(repr(p.value) for p in Phase)
        raise ArgumentError(f"there is no phase {name!r}", fix=f"one of {known}")
    return Phase(name)
