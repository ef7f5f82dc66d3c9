"""Derivatives of a score modification: by the score, and by each element that it loads.

Reverse mode over the expression, once for all of them; the results are expressions over the same
nodes, so that a kernel computes what they share with the score once. At a kink the derivative is
the one that torch takes: 0 for abs at 0, a half each for equal operands of min and max. A floor, a
cut to an integer and a condition have the derivative 0 almost everywhere, and it is taken as 0;
`flat_nodes` finds them, so that a user is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from flexdsl.ir import OPS, Expr, Op, Program, Type, apply, const, var, walk

ZERO, ONE = const(0.0), const(1.0)


def derivatives(root: Expr) -> dict[Expr, Expr]:
    """d root / d node, for every float node below `root` that `root` depends on smoothly.

    The score variable and the loads of float captures are among them; a node that is absent has
    the derivative 0.
    """
    found: dict[Expr, Expr] = {root: ONE}
    for node in reversed(list(walk(root))):
        outer = found.get(node)
        rule = _RULES.get(node.op)
        if outer is None or rule is None:
            continue
        for arg, partial in zip(node.args, rule(node), strict=True):
            if arg.type is not Type.FLOAT or partial is ZERO:
                continue
            term = apply(Op.MUL, outer, partial)
            found[arg] = apply(Op.ADD, found[arg], term) if arg in found else term
    return found


def flat_nodes(root: Expr, variable: Expr) -> list[Expr]:
    """Nodes through which `root` depends on `variable` only in steps: derivative taken as 0."""
    depends = {variable}
    flat: list[Expr] = []
    for node in walk(root):
        if node is variable or depends.isdisjoint(node.args):
            continue
        depends.add(node)
        stepwise = node.type is not Type.FLOAT or node.op is Op.FLOOR
        if stepwise and any(a.type is Type.FLOAT and a in depends for a in node.args):
            flat.append(node)
    return flat


def describe_steps(score: Program) -> str:
    """Where a score modification depends on the score in steps, with carets; "" where nowhere."""
    parts: list[str] = []
    for node in flat_nodes(score.expr, var("score")):
        what = "a floor" if node.op is Op.FLOOR else "a condition or an integer"
        parts.append(
            f"{score.name} has {what} of the score, {node!r}: the gradient through it is taken as 0"
        )
        if node in score.spans:
            parts.append(score.spans[node].render())
    return "\n".join(parts)


def _choose(condition: Expr, a: Expr, b: Expr) -> Expr:
    return apply(Op.WHERE, condition, a, b)


def _extreme(first_wins: Op) -> Callable[[Expr], tuple[Expr, ...]]:
    def rule(node: Expr) -> tuple[Expr, ...]:
        a, b = node.args
        tie, half = apply(Op.EQ, a, b), const(0.5)
        first = _choose(apply(first_wins, a, b), ONE, ZERO)
        second = _choose(apply(first_wins, b, a), ONE, ZERO)
        return _choose(tie, half, first), _choose(tie, half, second)

    return rule


def _quotient(node: Expr) -> tuple[Expr, ...]:
    _, b = node.args
    inverse = apply(Op.DIV, ONE, b)
    return inverse, apply(Op.NEG, apply(Op.MUL, node, inverse))


def _absolute(node: Expr) -> tuple[Expr, ...]:
    (x,) = node.args
    negative = _choose(apply(Op.LT, x, ZERO), const(-1.0), ZERO)
    return (_choose(apply(Op.GT, x, ZERO), ONE, negative),)


def _scaled(factor: float, expr: Expr) -> Expr:
    return apply(Op.MUL, const(factor), expr)


def _select(node: Expr) -> tuple[Expr, ...]:
    condition = node.args[0]
    return ZERO, _choose(condition, ONE, ZERO), _choose(condition, ZERO, ONE)


_Rule = Callable[[Expr], tuple[Expr, ...]]

# For each op the partial derivatives by its operands; ops that are absent have derivative 0.
_RULES: Mapping[Op, _Rule] = {
    Op.ADD: lambda n: (ONE, ONE),
    Op.SUB: lambda n: (ONE, const(-1.0)),
    Op.MUL: lambda n: (n.args[1], n.args[0]),
    Op.DIV: _quotient,
    Op.NEG: lambda n: (const(-1.0),),
    Op.MIN: _extreme(Op.LT),
    Op.MAX: _extreme(Op.GT),
    Op.ABS: _absolute,
    Op.WHERE: _select,
    Op.EXP: lambda n: (n,),
    Op.EXP2: lambda n: (_scaled(math.log(2.0), n),),
    Op.LOG: lambda n: (apply(Op.DIV, ONE, n.args[0]),),
    Op.LOG2: lambda n: (apply(Op.DIV, const(1.0 / math.log(2.0)), n.args[0]),),
    Op.SQRT: lambda n: (apply(Op.DIV, const(0.5), n),),
    Op.RSQRT: lambda n: (_scaled(-0.5, apply(Op.DIV, n, n.args[0])),),
    Op.SIN: lambda n: (apply(Op.COS, n.args[0]),),
    Op.COS: lambda n: (apply(Op.NEG, apply(Op.SIN, n.args[0])),),
    Op.TANH: lambda n: (apply(Op.SUB, ONE, apply(Op.MUL, n, n)),),
    Op.SIGMOID: lambda n: (apply(Op.MUL, n, apply(Op.SUB, ONE, n)),),
}

# What has no rule: nothing smooth goes through it. A test holds the two against the table of ops.
STEPWISE = frozenset(OPS) - frozenset(_RULES)
