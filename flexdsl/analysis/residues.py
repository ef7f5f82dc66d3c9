"""Conditions on a remainder of the inner position: low <= x % period < high, taken as they stand.

`(q - kv) % s == 0`, `kv // 64 % 8 == h`, `kv % 512 >= 480` are such conditions, and so are their
opposites. What `solve.py` makes of a mask has at most one of them in each piece; as a `Sieve` it is
stretches of inner positions of one length. Lengths that change with the row, or stretches that are
far apart from row to row, are declined.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexdsl.analysis.affine import Linear, LinearForms, divisor_of
from flexdsl.analysis.closed_form import BOTTOM, Declined, Sieve
from flexdsl.analysis.prove import Prover
from flexdsl.ir import Expr, Op, apply, const, var, walk
from flexdsl.ir.ops import COMPARISONS, NEGATED

MOST = 2**30  # of a period: what is added to a position stays within 32 bits
_TURNED = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE}


@dataclass(frozen=True, slots=True)
class Residue:
    """low <= x % period < high; None for no bound.

    Attributes:
        node: the condition, for messages.
    """

    x: Linear
    period: int
    low: Expr | None
    high: Expr | None
    node: Expr

    def is_same(self, other: Residue) -> bool:
        """Is it the same condition?"""
        return self._is_of_same(other) and (self.low, self.high) == (other.low, other.high)

    def met(self, other: Residue) -> Residue | None:
        """Both conditions in one; None where they are of different numbers."""
        if self.is_same(other):
            return self
        lows = [r.low for r in (self, other) if r.low is not None]
        highs = [r.high for r in (self, other) if r.high is not None]
        if not self._is_of_same(other) or len(lows) > 1 or len(highs) > 1:
            return None
        low, high = (ends[0] if ends else None for ends in (lows, highs))
        return Residue(self.x, self.period, low, high, self.node)

    def _is_of_same(self, other: Residue) -> bool:
        return self.period == other.period and self.x.plus(other.x, -1) == Linear((), 0)


def has_residue(mask: Expr, inner: str, prover: Prover) -> bool:
    """Is there such a condition in a mask?"""
    return any(residue_of(n, False, inner, prover) is not None for n in walk(mask))


def residue_of(node: Expr, negated: bool, inner: str, prover: Prover) -> Residue | None:
    """What a comparison (or its opposite) says of a remainder of `inner`; None if it is another."""
    if node.op not in COMPARISONS:
        return None
    a, b = node.args
    op = NEGATED[node.op] if negated else node.op
    for x, y, order in ((a, b, op), (b, a, _TURNED.get(op, op))):
        period = x.args[1].attribute if x.op is Op.MOD else None
        if isinstance(period, int) and 2 <= period <= MOST and inner in x.args[0].variables:
            return _compared(x.args[0], period, order, y, node, inner, prover)
    return None


def _compared(
    x: Expr, period: int, op: Op, y: Expr, node: Expr, inner: str, prover: Prover
) -> Residue | None:
    """x % period `op` y."""
    forms = LinearForms()
    one, form = const(1), forms.of(x)
    if op in (Op.EQ, Op.NE):
        if y.op is Op.MOD and y.args[1].attribute == period:
            other = y.args[0]
        elif inner not in y.variables and _is_inside(y, y, period, prover):
            other = y
        else:
            return None
        low, high = (None, one) if op is Op.EQ else (one, None)
        return Residue(form.plus(forms.of(other), -1), period, low, high, node)
    if inner in y.variables:
        return None
    if op in (Op.LE, Op.GT):
        y = apply(Op.ADD, y, one)
    low, high = (None, y) if op in (Op.LT, Op.LE) else (y, None)
    return Residue(form, period, low, high, node)


def _is_inside(low: Expr, last: Expr, period: int, prover: Prover) -> bool:
    """Is 0 <= low and last < period, whatever is captured?"""
    inside = apply(Op.AND, apply(Op.GE, low, BOTTOM), apply(Op.LT, last, const(period)))
    return prover.timeless.always(inside)


def sieve_of(residue: Residue, inner: str, prover: Prover) -> Sieve:
    """The positions that a residue lets through, as stretches. Raises `Declined`."""
    forms, node = LinearForms(), residue.node
    low = BOTTOM if residue.low is None else residue.low
    high = const(residue.period) if residue.high is None else residue.high
    length = forms.difference(high, low)
    width = length.to_expr()
    if not width.variables <= {"b", "h"}:
        raise Declined(f"how many {inner} of a period {node!r} takes changes with the row", node)
    if not _is_inside(apply(Op.SUB, width, const(1)), width, residue.period, prover):
        raise Declined(f"{node!r} may take all {inner} of a period, or none", node)
    if not _is_inside(low, apply(Op.SUB, high, const(1)), residue.period, prover):
        raise Declined(f"{node!r} may compare with more than its remainder can be", node)
    atoms = [t for t in residue.x.terms if inner in t[0].variables]
    atom, sign = atoms[0] if len(atoms) == 1 else (BOTTOM, 0)
    if abs(sign) != 1:
        raise Declined(f"{node!r} has {inner} in several terms, or times a number", node)
    scale, shift = _block(atom, inner, node)
    rest = residue.x.without(atom)
    if sign == 1:
        begin = forms.of(low).plus(rest, -1)
    else:
        begin = rest.plus(forms.of(high), -1).plus(Linear((), 1))
    begin = begin.times(scale).plus(shift, -1)
    step, width = _step(begin, prover, node), length.times(scale).to_expr()
    if not prover.timeless.always(apply(Op.LE, const(abs(step)), width)):
        raise Declined(f"the {inner} of {node!r} are too far apart from row to row", node)
    sieve = Sieve(residue.period * scale, width, begin.to_expr(), step)
    if sieve.period > MOST or not prover.fits(sieve.anchor):
        raise Declined(f"the {inner} of {node!r} may not fit in 32 bits", node)
    return sieve


def _block(atom: Expr, inner: str, node: Expr) -> tuple[int, Linear]:
    """B and e of (inner + e) // B; B is 1 of the position itself. Raises `Declined`."""
    if atom.op is Op.VAR:
        return 1, Linear((), 0)
    divisor = divisor_of(atom)
    form = LinearForms().of(atom.args[0])
    rest = form.without(var(inner))
    if divisor is None or form.coefficient(var(inner)) != 1:
        raise Declined(f"{atom!r} is asked for again and again along {inner}", node)
    if any(not t.variables <= {"b", "h"} for t, _ in rest.terms):
        raise Declined(f"{atom!r} counts blocks of {inner} from other places in each row", node)
    return divisor, rest


def _step(begin: Linear, prover: Prover, node: Expr) -> int:
    """How far the beginning of a stretch moves from row to row. Raises `Declined`."""
    outer = var(prover.outer)
    others = begin.without(outer)
    for term, _ in others.terms:
        if not term.variables <= {"b", "h"}:
            raise Declined(f"{node!r} moves with {term!r}, and not by as much in every row", node)
    return begin.coefficient(outer)
