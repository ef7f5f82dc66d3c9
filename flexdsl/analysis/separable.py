"""Low rank found in a score: what is a sum of products f(q) * g(kv), and is better computed so.

    slope * (kv - q)       f + g                                               rank 2
    cos(w * (q - kv))      cos(u) * cos(v) - sin(u) * sin(v), u + v the angle  rank 2
    sum((x[q] - y[kv])^2)  |x|^2 - 2 x y + |y|^2                               rank d + 2

Splitting is exact in real numbers: products are multiplied out, and the addition theorems of sine,
cosine and exponential are used. A factor is computed once for each row or key of a tile, so that a
pair costs one multiply-add for each rank. Positions are counted from an `origin`, the first one of
the kernel's own tile: from 0 they would be large numbers, in which small differences are lost.
What would overflow or cancel is found, told, and left alone. Nothing is written into kernels here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from flexdsl.analysis.affine import LinearForms
from flexdsl.analysis.prices import price_of
from flexdsl.analysis.values import substitute
from flexdsl.ir import Expr, Op, Type, apply, const, evaluate, print_expr, var, walk

ONE = const(1.0)
MAX_NODES = 1 << 11  # of a score that is looked at
MAX_PARTS = 1 << 10  # products of one term
LONGEST_TILE = 256
MOST_FACTORS = 32  # of a row that registers hold beside all else
GENTLE = 40.0  # of exponents, whose largest in float32 is 88
Parts = list[tuple[Expr, Expr]]  # see `_Splitter`
_OVERFLOW = "of its factors one may overflow where their product does not"
_CANCEL = "squares of what stands far from the origin lose the small differences between them"


@dataclass(frozen=True, slots=True)
class Found:
    """A term of a score that is a sum of products.

    Attributes:
        node: the term.
        rank: products f(q) * g(kv), with 1 as a factor too.
        split: the same term as a sum of products.
        cost, split_cost: operations for each pair, a multiply-add as one.
        danger: why its products may be less exact; "" where they are not.
    """

    node: Expr
    rank: int
    split: Expr
    cost: int
    split_cost: int
    danger: str

    @property
    def is_used(self) -> bool:
        """Do kernels compute the products?"""
        return not self.danger and self.rank <= MOST_FACTORS and self.split_cost < self.cost

    @property
    def reason(self) -> str:
        """Why it is used, or is not."""
        if self.danger:
            return f"not used: {self.danger}"
        if self.rank > MOST_FACTORS:
            return f"not used: registers hold {MOST_FACTORS} factors of a row"
        costs = f"{self.split_cost} operations a pair in place of {self.cost}"
        if self.is_used:
            return f"used forward, for 16-bit inputs: {costs}"
        return f"not used: {self.split_cost} operations a pair, and {self.cost} without"


# Asked about the same few scores in each call of attention.
@lru_cache(maxsize=256)
def separated(score: Expr, origin: Expr) -> Expr:
    """The score with every term in products that is better so; itself where none is.

    Args:
        origin: the position that others are counted from, var("q_first") in a kernel.
    """
    used = {f.node: f.split for f in find_factors(score, origin) if f.is_used}
    return substitute(score, used) if used else score


def find_factors(score: Expr, origin: Expr) -> list[Found]:
    """The largest terms of a score, free of the score itself, that are sums of products."""
    if sum(1 for _ in walk(score)) > MAX_NODES:
        return []
    found: dict[Expr, Found] = {}
    seen: set[Expr] = set()
    stack = [score]
    while stack:
        node = stack.pop()
        if node in seen or not _is_mixed(node):
            continue
        seen.add(node)
        is_term = node.type is Type.FLOAT and "score" not in node.variables
        made = _found(node, origin) if is_term else None
        if made is None or made.split is node:
            stack.extend(node.args)
        else:
            found[node] = made
    return list(found.values())


def describe_factors(score: Expr) -> Iterator[str]:
    """A line for each term of low rank: its factors' number, and whether they are used and why."""
    for found in find_factors(score, var("q_first")):
        yield f"{print_expr(found.node)} has rank {found.rank} in q and kv; {found.reason}"


def _found(node: Expr, origin: Expr) -> Found | None:
    splitter = _Splitter(origin)
    try:
        parts = splitter.parts(node)
    except _NotSeparable:
        return None
    split = _sum_of(parts)
    cost, split_cost = _cost(node), _cost(split)
    danger = "; ".join(dict.fromkeys(splitter.dangers))
    return Found(node, len(parts), split, cost, split_cost, danger)


class _NotSeparable(Exception):
    """A term is no sum of products that is known here."""


def _is_mixed(node: Expr) -> bool:
    return {"q", "kv"} <= node.variables or "score" in node.variables


@dataclass
class _Splitter:
    """Splits terms into parts (f, g): f does not know kv, and g does not know q.

    Attributes:
        dangers: why some of the parts are less exact than their sum.
    """

    origin: Expr
    dangers: list[str] = field(default_factory=list[str])
    _forms: LinearForms = field(default_factory=LinearForms)

    def parts(self, node: Expr) -> Parts:
        """The products whose sum is `node`. Raises `_NotSeparable`."""
        if "kv" not in node.variables:
            return [(node, ONE)]
        if "q" not in node.variables:
            return [(ONE, node)]
        match node.op:
            case Op.ADD | Op.SUB:
                first, second = (self.parts(a) for a in node.args)
                return _merged([*first, *(second if node.op is Op.ADD else _negated(second))])
            case Op.NEG:
                return _negated(self.parts(node.args[0]))
            case Op.MUL:
                return self._product(*node.args)
            case Op.DIV if not {"q", "kv"} <= node.args[1].variables:
                return self._product(node.args[0], apply(Op.DIV, ONE, node.args[1]))
            case Op.TO_FLOAT:
                return self._number(node.args[0])
            case Op.COS | Op.SIN:
                return self._wave(node.op, node.args[0])
            case Op.EXP | Op.EXP2:
                u, v = self._sum(node.args[0])
                if not (self._is_gentle(u) and self._is_gentle(v)):
                    self.dangers.append(_OVERFLOW)
                return [(apply(node.op, u), apply(node.op, v))]
        raise _NotSeparable

    def _product(self, a: Expr, b: Expr) -> Parts:
        if _is_mixed(a) and _is_mixed(b):
            self.dangers.append(_CANCEL)
        first, second = self.parts(a), self.parts(b)
        if len(first) * len(second) > MAX_PARTS:
            raise _NotSeparable
        products = [(_times(f, x), _times(g, y)) for f, g in first for x, y in second]
        return _merged(products)

    def _number(self, index: Expr) -> Parts:
        """An index as a float: terms of kv counted from the origin, and the rest."""
        form = self._forms.of(index)
        of_key = const(0)
        for atom, coefficient in form.terms:
            if "kv" not in atom.variables:
                continue
            if "q" in atom.variables or atom.loads:
                raise _NotSeparable
            at_origin = substitute(atom, {var("kv"): self.origin})
            term = apply(Op.MUL, apply(Op.SUB, atom, at_origin), const(coefficient))
            of_key = apply(Op.ADD, of_key, term)
        of_row = substitute(form.to_expr(), {var("kv"): self.origin})
        return [(apply(Op.TO_FLOAT, of_row), ONE), (ONE, apply(Op.TO_FLOAT, of_key))]

    def _sum(self, node: Expr) -> tuple[Expr, Expr]:
        """u and v where `node` is u(q) + v(kv)."""
        u, v = const(0.0), const(0.0)
        for f, g in self.parts(node):
            if "kv" not in g.variables:
                u = apply(Op.ADD, u, _times(f, g))
            elif "q" not in f.variables:
                v = apply(Op.ADD, v, _times(f, g))
            else:
                raise _NotSeparable
        return u, v

    def _is_gentle(self, exponent: Expr) -> bool:
        """Is it small, by its form, as long as its position is within a tile from the origin?

        One of the two positions always is. The other factor is then near the product.
        """
        position = var("q" if "q" in exponent.variables else "kv")
        for node in walk(exponent):
            if node.op is Op.TO_FLOAT and position in (forms := dict(self._index_terms(node))):
                if forms != {position: forms[position], self.origin: -forms[position]}:
                    return False
            elif node.op in (Op.LOAD, Op.PARAM, Op.TO_FLOAT):
                return False
        distances = np.arange(1 - LONGEST_TILE, LONGEST_TILE)
        at = {str(position.attribute): distances, str(self.origin.attribute): np.asarray(0)}
        return bool(np.all(np.abs(evaluate(exponent, at, {})) <= GENTLE))

    def _index_terms(self, node: Expr) -> tuple[tuple[Expr, int], ...]:
        return self._forms.of(node.args[0]).terms

    def _wave(self, op: Op, angle: Expr) -> Parts:
        u, v = self._sum(angle)
        (cos_u, sin_u), (cos_v, sin_v) = ((apply(Op.COS, x), apply(Op.SIN, x)) for x in (u, v))
        if op is Op.COS:
            return [(cos_u, cos_v), (apply(Op.NEG, sin_u), sin_v)]
        return [(sin_u, cos_v), (cos_u, sin_v)]


def _times(a: Expr, b: Expr) -> Expr:
    return b if a is ONE else a if b is ONE else apply(Op.MUL, a, b)


def _negated(parts: Parts) -> Parts:
    """The parts of the negation: the sign goes to whichever factor is not 1."""
    return [(f, apply(Op.NEG, g)) if f is ONE else (apply(Op.NEG, f), g) for f, g in parts]


def _merged(parts: Parts) -> Parts:
    """Parts with one factor in common as one; first what has a common g, then a common f."""
    by_key: dict[Expr, Expr] = {}
    for f, g in parts:
        by_key[g] = apply(Op.ADD, by_key[g], f) if g in by_key else f
    by_row: dict[Expr, Expr] = {}
    for g, f in by_key.items():
        by_row[f] = apply(Op.ADD, by_row[f], g) if f in by_row else g
    return list(by_row.items())


def _sum_of(parts: Parts) -> Expr:
    """The sum of the products; what has a factor 1 first."""
    first, *rest = sorted(parts, key=lambda p: ONE not in p)
    total = _times(*first)
    for f, g in rest:
        total = apply(Op.ADD, total, _times(f, g))
    return total


def _cost(expr: Expr) -> int:
    """Operations for each pair of what knows q and kv; a product that is only added is free."""
    nodes = [n for n in walk(expr) if {"q", "kv"} <= n.variables]
    uses = Counter(a for n in nodes for a in n.args)
    added = {a for n in nodes if n.op in (Op.ADD, Op.SUB) for a in n.args if a.op is Op.MUL}
    total = 1  # the sum with the score
    for node in nodes:
        price = price_of(node.op)
        total += price if price > 1 or node not in added or uses[node] > 1 else 0
    return total - (expr.op is Op.MUL)
