"""How the gradient of a captured tensor is added up, from what its index depends on.

Each pair (q, kv) of each head adds to the element that it loaded. Where the index depends on the
row alone, on the key alone, or on kv - q alone, the pairs of a row, of a key or of a diagonal are
added in a fixed order first, and only those sums are scattered. Any other index of both is added
with atomics.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from flexdsl.analysis.affine import LinearForms
from flexdsl.analysis.derivative import derivatives
from flexdsl.ir import Capture, Expr, Op, Type, print_expr, var, walk


class Reduction(Enum):
    """Along what the pairs are added before they are scattered."""

    QUERY = "the keys of each query row are added in a fixed order: deterministic"
    KEY = "the query rows of each key are added in a fixed order: deterministic"
    DIAGONAL = "the pairs of each difference kv - q are added in a fixed order: deterministic"
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
    if "q" not in load.variables:
        return Reduction.KEY
    forms = LinearForms()
    on_diagonal = all(_on_difference(index, forms) for index in load.args)
    return Reduction.DIAGONAL if on_diagonal else Reduction.PAIR


def _on_difference(node: Expr, forms: LinearForms) -> bool:
    """Does `node` depend on q and kv through kv - q alone? By its form; False is always safe."""
    if node.variables.isdisjoint({"q", "kv"}):
        return True
    if node.type is Type.INDEX:
        terms = dict(forms.of(node).terms)
        if terms.pop(var("q"), 0) + terms.pop(var("kv"), 0) != 0:
            return False
        if node not in terms:
            return all(_on_difference(atom, forms) for atom in terms)
    return node.op is not Op.VAR and all(_on_difference(a, forms) for a in node.args)


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
