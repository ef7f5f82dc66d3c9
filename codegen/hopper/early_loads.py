"""What is loaded for each row or each key of a tile, apart from where it is used.

Which loads of a kernel those are, when they are written and why: `row_loads.py`, `key_loads.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from flexdsl.ir import Expr, Op, Program, walk

from ..lower import Lowering, Scope, Text
from ..writer import Block

_OF_PAIRS = {"q", "kv", "score"}


def loads_along(axis: str, *programs: Program | None) -> tuple[Expr, ...]:
    """The loads that depend on `axis`, "q" or "kv", and neither on the other one nor on the score.

    Each once, operands before those that use them.
    """
    nodes = walk(*(p.expr for p in programs if p is not None))
    return tuple(n for n in nodes if n.op is Op.LOAD and n.variables & _OF_PAIRS == {axis})


def write_early(loads: Iterable[Expr], lowering: Lowering, scope: Scope) -> dict[Expr, Text]:
    """Write the loads into the block of `scope`, which has the positions; the source of each."""
    loads = tuple(loads)
    lowering.lower(loads, scope)
    return {n: scope.known[n] for n in loads}


def write_into(block: Block, names: dict[Expr, Text], found: dict[Expr, Text]) -> None:
    """Write what was found anew into the variables that the loads have so far."""
    for node, (text, _) in found.items():
        block.line(f"{names[node][0]} = {text}")
