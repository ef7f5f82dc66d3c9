"""What follows from the conjuncts of a mask: signs of linear forms, and conditions, by their form.

A form is natural, at least 0, where it is a sum of natural atoms, or becomes one when multiples of
one or two conjuncts are taken away; quotients are in the order of what is divided. Disjunctions say
nothing but themselves, and no range of a length, a parameter or a captured tensor is known here:
that is for `prove.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flexdsl.analysis.affine import Linear, LinearForms, divisor_of
from flexdsl.analysis.prove import split_comparison
from flexdsl.analysis.signs import is_non_negative
from flexdsl.ir import Expr, Op, Type, apply, const
from flexdsl.ir.ops import COMPARISONS

MOST_FACTS = 16  # of a longer mask the first ones are taken
TRUE, FALSE = const(True), const(False)


@dataclass
class Facts:
    """What holds at every pair that a mask allows.

    Attributes:
        conditions: nodes that are true.
        forms: linear forms that are at least 0.
    """

    conditions: set[Expr] = field(default_factory=set[Expr])
    forms: list[Linear] = field(default_factory=list[Linear])
    _linear: LinearForms = field(default_factory=LinearForms)

    def truth_of(self, node: Expr) -> Expr | None:
        """The constant that a condition is, if that follows."""
        if node in self.conditions:
            return TRUE
        if apply(Op.NOT, node) in self.conditions:
            return FALSE
        if node.op not in COMPARISONS or node.args[0].type is not Type.INDEX:
            return None
        if node.op is Op.NE:
            equal = self.truth_of(apply(Op.EQ, *node.args))
            return None if equal is None else apply(Op.NOT, equal)
        form = self._linear.difference(*node.args)
        if all(map(self.is_natural, _at_least_0(node.op, form))):
            return TRUE
        return FALSE if any(map(self.is_natural, _at_least_0_unless(node.op, form))) else None

    def compares(self, op: Op, a: Expr, b: Expr) -> bool:
        """Does `a op b` follow?"""
        return all(map(self.is_natural, _at_least_0(op, self._linear.difference(a, b))))

    def is_natural(self, form: Linear, most: int = 2) -> bool:
        """Does `form >= 0` follow from at most so many of the facts, each times a number?

        A multiple of a fact is taken away with which a term goes: what is left must be natural.
        """
        form = self._less_quotients(form, most)
        if form.constant >= 0 and all(c > 0 and is_non_negative(a) for a, c in form.terms):
            return True
        if most == 0:
            return False
        for fact in self.forms:
            for atom, of_fact in fact.terms:
                mine = form.coefficient(atom)
                if mine * of_fact > 0:
                    rest = form.times(abs(of_fact)).plus(fact, -abs(mine))
                    if self.is_natural(rest, most - 1):
                        return True
        return False

    def _less_quotients(self, form: Linear, most: int) -> Linear:
        """The form less x // T - y // T, for a pair of its terms with x >= y."""
        for a, more in form.terms:
            divisor = divisor_of(a)
            for b, less in form.terms if divisor is not None and more > 0 else ():
                if less < 0 and divisor_of(b) == divisor:
                    difference = self._linear.difference(a.args[0], b.args[0])
                    if self.is_natural(difference, most):
                        times = min(more, -less)
                        return form.plus(Linear(((a, times), (b, -times)), 0), -1)
        return form


def _at_least_0(op: Op, form: Linear) -> tuple[Linear, ...]:
    """The forms that are natural exactly where `form op 0` holds, for a comparison but !=."""
    negative = form.times(-1)
    match op:
        case Op.GE:
            return (form,)
        case Op.GT:
            return (_less_1(form),)
        case Op.LE:
            return (negative,)
        case Op.LT:
            return (_less_1(negative),)
    return form, negative


def _at_least_0_unless(op: Op, form: Linear) -> tuple[Linear, ...]:
    """Forms of which one is natural exactly where `form op 0` does not hold."""
    if op is Op.EQ:
        return _less_1(form), _less_1(form.times(-1))
    (wanted,) = _at_least_0(op, form)
    return (_less_1(wanted.times(-1)),)


def _less_1(form: Linear) -> Linear:
    return Linear(form.terms, form.constant - 1)


def facts_of(mask: Expr) -> Facts:
    """The conjuncts of a mask. A distance that is bounded, or a maximum, is two bounds."""
    facts, linear = Facts(), LinearForms()
    stack = [mask]
    while stack:
        node = stack.pop()
        if node.op is Op.AND:
            stack.extend(reversed(node.args))
            continue
        if node.op is Op.NOT and node.args[0].op is Op.OR:
            stack.extend(apply(Op.NOT, a) for a in reversed(node.args[0].args))
            continue
        facts.conditions.add(node)
        if node.op not in COMPARISONS or node.args[0].type is not Type.INDEX or node.op is Op.NE:
            continue
        facts.forms += _at_least_0(node.op, linear.difference(*node.args))
        cases = split_comparison(node, linear, lambda atom: True)
        if cases is not None and cases.op is Op.AND:
            stack.append(cases)
    del facts.forms[MOST_FACTS:]
    return facts
