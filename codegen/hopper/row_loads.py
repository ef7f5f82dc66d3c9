"""What the backward kernel loads for each row of a query tile, one tile ahead of its use.

A load that is asked for where it is used waits behind the atomics of the tile before, in the
memory's queue: packed documents took 1.4 times as long. Loads of pairs stand where they are used.
"""

from __future__ import annotations

from flexdsl.ir import Expr

from ..kernel import KernelSpec
from ..lower import Lowering, Scope, Text
from ..tiles import loads_at
from ..writer import Block
from .early_loads import loads_along, write_early, write_into
from .schedule import Walk


def loads_of_rows(spec: KernelSpec, masked: bool) -> tuple[Expr, ...]:
    """What is loaded for each row of a tile, whatever the key."""
    return loads_along("q", spec.score, spec.mask if masked else None)


def write_loads(
    block: Block,
    spec: KernelSpec,
    loads: tuple[Expr, ...],
    tile: str,
    suffix: str,
    lowering: Lowering,
    outer: Scope,
) -> dict[Expr, Text]:
    """Write `loads` for the rows of a query tile.

    Args:
        tile: its source.
        suffix: of the names of its rows.

    Returns:
        The source of each load.
    """
    if not loads:
        return {}
    variables = {**outer.variables, "q": f"q{suffix}"}
    scope = Scope(block.block(), outer, variables)
    write_rows(scope.block, spec, tile, suffix)
    return write_early(loads, lowering, scope)


def write_next_loads(
    body: Block,
    spec: KernelSpec,
    loads: tuple[Expr, ...],
    loop: Walk,
    names: dict[Expr, Text],
    lowering: Lowering,
    outer: Scope,
) -> None:
    """Write the loads of the tile after this one, into the variables that this one's are in.

    They stand before this tile's atomics, behind which they would wait in the memory's queue.
    """
    following = write_loads(body, spec, loads, loop.following, "_ahead", lowering, outer)
    write_into(body, names, following)


def write_rows(block: Block, spec: KernelSpec, tile: str = "q_tile", suffix: str = "") -> None:
    """Write the positions of a tile's rows."""
    start = f"{tile} * BLOCK_M" if tile.isidentifier() else f"({tile}) * BLOCK_M"
    block.line(f"row{suffix} = ({start} + gl.arange(0, BLOCK_M, ROWS))[None, :]")
    clipped = f"gl.minimum(row{suffix}, q_len - 1)" if loads_at("q", spec) else f"row{suffix}"
    block.line(f"q{suffix} = q_offset + {clipped}")
