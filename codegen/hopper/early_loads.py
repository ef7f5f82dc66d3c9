"""What is loaded for each row or each key of a tile, apart from where it is used.

When the loads are written and why: `row_loads.py`, `key_loads.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flexdsl.ir import Expr, Op, Program, walk

from ..kernel import KernelSpec
from ..lower import Lowering, Scope, Text
from ..writer import Block

_OF_PAIRS = {"q", "kv", "score"}


@dataclass(frozen=True)
class Loads:
    """The loads of a kernel that depend on one axis, and neither on the other nor on the score.

    Attributes:
        always: those of the score modification.
        masked: those of the mask alone.
    """

    always: tuple[Expr, ...]
    masked: tuple[Expr, ...]

    @property
    def all(self) -> tuple[Expr, ...]:
        """Each of them once."""
        return *self.always, *self.masked


def loads_of(axis: str, spec: KernelSpec) -> Loads:
    """The loads along `axis`, "q" or "kv"."""
    always = _along(axis, spec.score)
    return Loads(always, tuple(n for n in _along(axis, spec.mask) if n not in always))


def _along(axis: str, program: Program | None) -> tuple[Expr, ...]:
    """The loads that depend on `axis`, operands before those that use them."""
    nodes = () if program is None else walk(program.expr)
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
