"""Is a mask the same with q and kv exchanged? By its form: no pair is looked at.

Both masks are brought into one normal form, in which the order of operands, the sign of a
difference and the direction of a comparison do not count. What differs there may be equal all the
same: "yes" is a proof, "no" is not.
"""

from __future__ import annotations

from collections.abc import Hashable

from flexdsl.analysis.affine import Linear, LinearForms
from flexdsl.analysis.truth import flatten
from flexdsl.analysis.values import is_deep, substitute
from flexdsl.ir import Expr, Op, Type, const, var
from flexdsl.ir.ops import COMPARISONS

Key = Hashable
_FREE = frozenset({Op.ADD, Op.MUL, Op.MIN, Op.MAX, Op.BITAND, Op.BITOR, Op.BITXOR})
_TURNED = {Op.GT: Op.LT, Op.GE: Op.LE}


def is_symmetric(mask: Expr) -> bool:
    """Is allowed(q, kv) == allowed(kv, q) at every pair of positions, by the mask's form?"""
    q, kv = var("q"), var("kv")
    return are_equal(mask, substitute(mask, {q: kv, kv: q}))


def are_equal(a: Expr, b: Expr) -> bool:
    """Have two conditions one normal form?"""
    if is_deep(a) or is_deep(b):
        return False
    forms = _Forms()
    return forms.key(a) == forms.key(b)


class _Forms:
    """Normal forms of nodes, each made once."""

    def __init__(self) -> None:
        self._done: dict[Expr, Key] = {}
        self._linear = LinearForms()

    def key(self, node: Expr) -> Key:
        """What equal nodes have in common, however they are written."""
        if node not in self._done:
            self._done[node] = self._key(node)
        return self._done[node]

    def _key(self, node: Expr) -> Key:
        if node.op in (Op.AND, Op.OR):
            return node.op, frozenset(self.key(part) for part in flatten(node))
        if node.op in COMPARISONS and node.args[0].type is Type.INDEX:
            return self._comparison(node)
        if node.type is Type.INDEX:
            return self._number(self._linear.of(node))
        return self._plain(node)

    def _comparison(self, node: Expr) -> Key:
        a, b = node.args
        form = self._linear.difference(a, b)
        if node.op in (Op.EQ, Op.NE):
            if a.op is Op.MOD and b is const(0):
                # x and -x have the same divisors.
                inner = self._either_sign(self._linear.of(a.args[0]))
                return node.op, Op.MOD, inner, self.key(a.args[1])
            return node.op, self._either_sign(form)
        if node.op in _TURNED:
            return _TURNED[node.op], self._number(form.times(-1))
        return node.op, self._number(form)

    def _either_sign(self, form: Linear) -> Key:
        return frozenset({self._number(form), self._number(form.times(-1))})

    def _number(self, form: Linear) -> Key:
        return frozenset((self._plain(x), c) for x, c in form.terms), form.constant

    def _plain(self, node: Expr) -> Key:
        """By its operands; a leaf is itself."""
        if not node.args:
            return node
        if node.op is Op.ABS and node.type is Type.INDEX:
            return node.op, self._either_sign(self._linear.of(node.args[0]))
        keys = [self.key(a) for a in node.args]
        free = node.op in _FREE or node.op in (Op.EQ, Op.NE)
        # Two equal operands are not one: x * x is no x.
        operands = frozenset((k, keys.count(k)) for k in keys) if free else tuple(keys)
        return node.op, node.attribute, operands
