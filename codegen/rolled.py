"""Long sums whose terms differ in numbers alone: a loop over the numbers, in place of all terms.

    cos(d * 1.0) + cos(d * 0.9) + cos(d * 0.8) + ...   sum = cos(d * 1.0)
                                                       for term in range(63):
                                                           sum += cos(d * number)

Written out, each term is computed for every pair that a thread has: a sum of 64 cosines was 1.6
million instructions, and took minutes to compile. The terms are added in the order of the source.
How the loop is written is for `lower.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flexdsl.analysis.values import substitute
from flexdsl.ir import Expr, Op, Type, walk
from flexdsl.ir.expr import intern

FEWEST = 12  # terms of a loop; fewer stand as they are
NUMBER = intern(Op.VAR, (), "number", Type.FLOAT)


@dataclass(frozen=True)
class Rolled:
    """A sum as a first part and a loop.

    Attributes:
        before: what the loop adds to, a number of each pair.
        term: what it adds, a function of `NUMBER`.
        numbers: one for each turn.
    """

    before: Expr
    term: Expr
    numbers: tuple[float, ...]


def rolled_sums(roots: Iterable[Expr]) -> dict[Expr, Rolled]:
    """The long sums of pairs among the nodes of `roots`, and how each is a loop."""
    sums = [n for n in walk(*roots) if n.op is Op.ADD and n.type is Type.FLOAT]
    parts = {a for n in sums for a in n.args if a.op is Op.ADD}
    found = ((n, _rolled(n)) for n in sums if n not in parts and {"q", "kv"} <= n.variables)
    return {n: rolled for n, rolled in found if rolled is not None}


def _rolled(node: Expr) -> Rolled | None:
    """The sum as a loop; None where its last terms do not differ in one number alone."""
    first, last = node.args
    pair = None if first.op is not Op.ADD else _difference(first.args[1], last)
    if pair is None or pair[1].op is not Op.CONST:
        return None
    term = substitute(last, {pair[1]: NUMBER})
    numbers: list[float] = []
    while node.op is Op.ADD and (pair := _difference(term, node.args[1])) is not None:
        number = pair[1].attribute
        if pair[0] is not NUMBER or not isinstance(number, float):
            break
        numbers.append(number)
        node = node.args[0]
    if len(numbers) < FEWEST or not (node.variables >= {"q", "kv"} or "score" in node.variables):
        return None
    return Rolled(node, term, tuple(reversed(numbers)))


def _difference(a: Expr, b: Expr) -> tuple[Expr, Expr] | None:
    """The one place where two expressions differ; None where there is none, or several."""
    if a is b:
        return None
    same = a.op is b.op and a.attribute == b.attribute and len(a.args) == len(b.args) > 0
    if not same:
        return a, b
    differing = [(x, y) for x, y in zip(a.args, b.args, strict=True) if x is not y]
    return _difference(*differing[0]) if len(differing) == 1 else None
