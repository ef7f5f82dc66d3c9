"""How the gradient of a captured tensor is added up, from what its index depends on.

Each pair (q, kv) of each head adds to the element that it loaded. Where the index depends on the
row or on the key alone, the pairs of a row or of a key are added in a fixed order first, and only
those sums are scattered. What is left, an index of both, is added with atomics.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from flexdsl.analysis.derivative import derivatives
from flexdsl.ir import Capture, Expr, Op, print_expr, walk


class Reduction(Enum):
    """Along what the pairs are added before they are scattered."""

    QUERY = "the keys of each query row are added in a fixed order: deterministic"
    KEY = "the query rows of each key are added in a fixed order: deterministic"
    PAIR = "each pair is added by an atomic operation: the order, and so the last bits, may vary"


@dataclass(frozen=True, slots=True)
class LearnedLoad:
    """A load of a captured tensor that requires a gradient.

    Attributes:
        node: the load.
        derivative: of the modified score by the loaded element.
        reduction: how its gradient is added up.
    """

    node: Expr
    derivative: Expr
    reduction: Reduction

    @property
    def capture(self) -> str:
        """Name of the captured tensor."""
        assert isinstance(self.node.attribute, Capture)
        return self.node.attribute.name


def learned_loads(score: Expr, names: Collection[str]) -> tuple[LearnedLoad, ...]:
    """The loads of the captures `names` through which a score depends on them, in order of use."""
    by_node = derivatives(score)
    loads = (n for n in walk(score) if n.op is Op.LOAD and n in by_node)
    found = (LearnedLoad(n, by_node[n], reduction_of(n)) for n in loads)
    return tuple(load for load in found if load.capture in names)


def reduction_of(load: Expr) -> Reduction:
    """How the gradient of what `load` reads is added up."""
    if "kv" not in load.variables:
        return Reduction.QUERY
    return Reduction.PAIR if "q" in load.variables else Reduction.KEY


def explain_gradients(score: Expr) -> str:
    """A line for each load of a float capture: how its gradient would be added up, and why."""
    lines: list[str] = []
    for node, derivative in derivatives(score).items():
        if node.op is not Op.LOAD:
            continue
        load = LearnedLoad(node, derivative, reduction_of(node))
        depends = ", ".join(sorted(node.variables)) or "nothing"
        lines.append(
            f"gradient of {load.capture}: its index in {print_expr(node)} depends on {depends};"
            f" {load.reduction.value}"
        )
    return "\n".join(lines)
