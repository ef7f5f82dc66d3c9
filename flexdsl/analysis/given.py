"""A score modification under a mask: what the mask proves drops out of the score.

    q >= kv:    abs(q - kv)  is  q - kv,    max(kv - q, 0)  is  0,    a if kv <= q else b  is  a

A score counts only at pairs that the mask allows, and at these the new one is equal to the written
one. Conditions, and minima, maxima and absolute values of indices, are looked at; what follows is
for `implied.py`, and what does not is left as it is.

At other pairs the new score has another value, or none: that is no matter of those who compute it
(`finite.py`), but that the divisors of integers stay. In the index of a load conditions alone drop
out, since a minimum there keeps the index inside the tensor, and a kernel would need two operations
to do so.

No name in the mask may mean another thing in the score (`rename_apart`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from flexdsl.analysis.implied import FALSE, TRUE, Facts, facts_of
from flexdsl.errors import TypeMismatchError
from flexdsl.ir import Capture, Expr, Op, Program, Type, apply, const, load, print_expr, walk

REMEMBERED = 1 << 10  # most recent pairs of a score and a mask

_Part = tuple[Expr, bool]  # a node, and whether it is in the index of a load
# Of indices, without a value for some second operands, which stay as they are.
_STEPPING = frozenset({Op.FLOORDIV, Op.MOD, Op.SHL, Op.SHR})


@dataclass(frozen=True)
class Given:
    """A score under a mask.

    Attributes:
        expr: the score, equal to the written one at every pair that the mask allows.
        replaced: nodes and what they were replaced by, in the order of the score.
    """

    expr: Expr
    replaced: tuple[tuple[Expr, Expr], ...] = ()


def simplified_given(score: Expr, mask: Expr) -> Expr:
    """A score, simpler where it can be, that is the same wherever the mask allows a pair."""
    return _given(score, mask).expr


def score_given(score: Program | None, mask: Program | None) -> Program | None:
    """The score of a call as kernels compute it: the same object while these are the same."""
    if score is None or mask is None:
        return score
    expr = simplified_given(score.expr, mask.expr)
    if expr is score.expr:
        return score
    key = "given a mask", expr
    if key not in score.memo:
        score.memo[key] = replace(score, expr=expr)
    found: Program = score.memo[key]
    return found


def describe_given(score: Program | None, mask: Program | None) -> Iterator[str]:
    """A line that says what follows from the mask; none where nothing was simplified."""
    if score is None or mask is None:
        return
    parts = [f"{print_expr(a)} is {_words(b)}" for a, b in _given(score.expr, mask.expr).replaced]
    if parts:
        yield f"{', '.join(parts)} where the mask allows a pair"


def _words(expr: Expr) -> str:
    return {TRUE: "true", FALSE: "false"}.get(expr) or print_expr(expr)


@lru_cache(maxsize=REMEMBERED)
def _given(score: Expr, mask: Expr) -> Given:
    if mask.op is Op.CONST:
        return Given(score)
    try:
        found = _Rewriting(facts_of(mask)).of(score)
    except TypeMismatchError:
        # Constants that meet now, and have no value together: no allowed pair has them.
        return Given(score)
    return Given(score) if found.expr is score else found


@dataclass
class _Rewriting:
    """A score from its leaves up, with what follows from facts put in.

    Attributes:
        replaced: nodes, rebuilt from their operands, and what stands for them.
    """

    facts: Facts
    replaced: dict[Expr, Expr] = field(default_factory=dict[Expr, Expr])

    def of(self, score: Expr) -> Given:
        """The score, rewritten."""
        wanted = _wanted(score)
        done: dict[_Part, Expr] = {}
        for node in walk(score):
            for in_index in wanted.get(node, ()):
                rebuilt = _rebuilt(node, in_index, done)
                done[node, in_index] = self._simplified(rebuilt, in_index)
        return Given(done[score, False], tuple(self.replaced.items()))

    def _simplified(self, node: Expr, in_index: bool) -> Expr:
        found: Expr | None = None
        if node.type is Type.BOOL and node.op is not Op.CONST:
            found = self.facts.truth_of(node)
        elif node.type is Type.INDEX and not in_index:
            found = self._extreme(node)
        if found is None:
            return node
        self.replaced[node] = found
        return found

    def _extreme(self, node: Expr) -> Expr | None:
        """What an absolute value, a minimum or a maximum is, if that follows."""
        compares = self.facts.compares
        match node.op, node.args:
            case Op.ABS, (x,):
                if compares(Op.GE, x, const(0)):
                    return x
                return _negated(x) if compares(Op.LE, x, const(0)) else None
            case (Op.MIN | Op.MAX) as op, (a, b):
                first = Op.LE if op is Op.MIN else Op.GE
                return a if compares(first, a, b) else b if compares(first, b, a) else None
        return None


def _wanted(score: Expr) -> dict[Expr, set[bool]]:
    """For each node that may be rewritten: is it in the index of a load, is it elsewhere?"""
    wanted = {score: {False}}
    for node in reversed(list(walk(score))):
        places = wanted.get(node, set())
        for arg in _open(node) if places else ():
            wanted.setdefault(arg, set()).update({True} if node.op is Op.LOAD else places)
    return wanted


def _open(node: Expr) -> tuple[Expr, ...]:
    """The operands of a node that may be rewritten."""
    return node.args[:1] if node.op in _STEPPING else node.args


def _rebuilt(node: Expr, in_index: bool, done: dict[_Part, Expr]) -> Expr:
    """A node of operands that are done."""
    if isinstance(node.attribute, Capture):
        return load(node.attribute, *(done[a, True] for a in node.args))
    rewritten = _open(node)
    args = (*(done[a, in_index] for a in rewritten), *node.args[len(rewritten) :])
    return node if args == node.args else apply(node.op, *args)


def _negated(x: Expr) -> Expr:
    return apply(Op.SUB, *reversed(x.args)) if x.op is Op.SUB else apply(Op.NEG, x)
