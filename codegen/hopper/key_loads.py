"""What the forward kernel loads for each key of a tile, while the tile's scores are computed.

A load that is asked for where it is used, after the scores are there, has nothing to hide behind.
Loads of the mask are done for masked tiles only; what was loaded for the tile before stays in their
variables else. Loads of pairs stand where they are used.
"""

from __future__ import annotations

from flexdsl.ir import Expr

from ..kernel import KernelSpec
from ..lower import Lowering, Scope, Text
from ..tiles import loads_at
from ..writer import Block
from .early_loads import Loads, loads_of, write_early, write_into


def loads_of_keys(spec: KernelSpec) -> Loads:
    """What is loaded for each key, whatever the row.

    Three consumers have no registers for it to wait in: theirs are loaded where they are used.
    """
    return loads_of("kv", spec) if spec.consumers <= 2 else Loads((), ())


def write_first_loads(
    block: Block, spec: KernelSpec, loads: Loads, lowering: Lowering, outer: Scope
) -> dict[Expr, Text]:
    """Write the loads of the first tile.

    Returns:
        The source of each load, a variable.
    """
    return _write(block, spec, loads.all, lowering, outer)


def write_more_loads(
    block: Block,
    spec: KernelSpec,
    loads: Loads,
    masked: str,
    names: dict[Expr, Text],
    lowering: Lowering,
    outer: Scope,
) -> None:
    """Write the loads of another tile, into the variables `names` of the first.

    Args:
        masked: source of the bool that the mask is to be looked at; "" where it never is.
    """
    write_into(block, names, _write(block, spec, loads.always, lowering, outer))
    if masked and loads.masked:
        with block.indented(f"if {masked}:") as inner:
            write_into(inner, names, _write(inner, spec, loads.masked, lowering, outer))


def _write(
    block: Block, spec: KernelSpec, loads: tuple[Expr, ...], lowering: Lowering, outer: Scope
) -> dict[Expr, Text]:
    if not loads:
        return {}
    scope = Scope(block.block(), outer, {**outer.variables, "kv": "kv"})
    write_keys(scope.block, spec)
    return write_early(loads, lowering, scope)


def write_keys(block: Block, spec: KernelSpec) -> None:
    """Write the positions of the tile's keys."""
    block.line("key_index = (kv_tile * BLOCK_N + gl.arange(0, BLOCK_N, KEYS))[None, :]")
    clipped = "gl.minimum(key_index, kv_len - 1)" if loads_at("kv", spec) else "key_index"
    block.line(f"kv = {clipped}")
