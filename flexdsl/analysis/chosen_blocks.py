"""Blocks that captured numbers choose: of which sizes are they?

`table[q // 64, kv // 64]` and `drawn[q // 64, n] == kv // 64` know positions by blocks of 64: tiles
of such blocks are full or empty, whatever the numbers are. Judged by the form of a mask alone.
"""

from __future__ import annotations

from math import gcd

from flexdsl.analysis.block_grid import block_of
from flexdsl.ir import Expr, Op, Type, walk

_JOINS = (Op.AND, Op.OR, Op.NOT)


def chosen_blocks(mask: Expr, size: int) -> tuple[int, int] | None:
    """The sizes of the blocks of q and of kv that captured numbers choose; None: they choose none.

    Conditions that no captured number of a position is in, as that of a causal mask, do not count.

    Args:
        mask: its parameters may be known or not.
        size: positions are multiples of it; so are the blocks, or they divide it.

    Returns:
        The largest divisors of `size` by blocks of which all those conditions know positions.
    """
    chosen = [c for c in _conditions(mask) if _loads_by_position(c)]
    if not chosen:
        return None
    rows, keys = (gcd(*(block_of(c, axis, size) for c in chosen)) for axis in ("q", "kv"))
    return rows, keys


def are_chosen(mask: Expr, size: int) -> bool:
    """Do captured numbers choose blocks of `size`, of which tiles twice as wide have some each?"""
    found = chosen_blocks(mask, 2 * size)
    return found is not None and min(found) == size


def _conditions(mask: Expr) -> list[Expr]:
    """What a mask joins by and, or and not."""
    found: dict[Expr, None] = {}
    stack, seen = [mask], set[Expr]()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op in _JOINS:
            stack.extend(node.args)
        elif node.type is Type.BOOL:
            found[node] = None
    return list(found)


def _loads_by_position(condition: Expr) -> bool:
    return any(n.op is Op.LOAD and n.variables & {"q", "kv"} for n in walk(condition))
