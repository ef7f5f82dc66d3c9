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
from .early_loads import Loads, write_early, write_into
from .works import MASKED, NOTHING, tile_in_note


def write_first_loads(
    block: Block, spec: KernelSpec, loads: Loads, lowering: Lowering, outer: Scope
) -> dict[Expr, Text]:
    """Write the loads of a work's first tile.

    Returns:
        The source of each load, a variable.
    """
    return _write(block, spec, loads.all, "q_tile", "", lowering, outer)


def write_next_loads(
    body: Block,
    spec: KernelSpec,
    loads: Loads,
    names: dict[Expr, Text],
    lowering: Lowering,
    outer: Scope,
) -> None:
    """Write the loads of the tile after this one, into the variables that this one's are in.

    They stand before this tile's atomics, behind which they would wait in the memory's queue. Which
    tile it is stands in its note: its queries are there by then, as the producer is ahead.
    """
    if not loads.all:
        return
    wanted = "own != 0" if spec.skips else f"after != {NOTHING}"
    with body.indented(f"if {wanted}:") as block:
        block.line("next_at = counted(at + 1)")
        block.line("ahead = next_at % STAGES")
        block.line("mbarrier.wait(query_ready.index(ahead), next_at // STAGES & 1)")
        block.line(f"tile_ahead = {tile_in_note('ahead', spec.skips)}")
        tile = "tile_ahead", "_ahead"
        write_into(block, names, _write(block, spec, loads.always, *tile, lowering, outer))
        if loads.masked:
            with block.indented(f"if after == {MASKED}:") as inner:
                write_into(inner, names, _write(inner, spec, loads.masked, *tile, lowering, outer))


def _write(
    block: Block,
    spec: KernelSpec,
    loads: tuple[Expr, ...],
    tile: str,
    suffix: str,
    lowering: Lowering,
    outer: Scope,
) -> dict[Expr, Text]:
    """Write `loads` for the rows of a query tile; the source of each.

    Args:
        tile: its source.
        suffix: of the names of its rows.
    """
    if not loads:
        return {}
    scope = Scope(block.block(), outer, {**outer.variables, "q": f"q{suffix}"})
    write_rows(scope.block, spec, tile, suffix)
    return write_early(loads, lowering, scope)


def write_rows(block: Block, spec: KernelSpec, tile: str = "q_tile", suffix: str = "") -> None:
    """Write the positions of a tile's rows."""
    block.line(f"row{suffix} = ({tile} * BLOCK_M + gl.arange(0, BLOCK_M, ROWS))[None, :]")
    clipped = f"gl.minimum(row{suffix}, q_len - 1)" if loads_at("q", spec) else f"row{suffix}"
    block.line(f"q{suffix} = q_offset + {clipped}")
