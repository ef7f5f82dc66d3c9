"""A condition solved for the inner variable: a union of few pieces of its axis.

Comparisons are solved for the inner variable; and, or, not act on unions of pieces. What cannot be
solved is declined, with the reason and the node. Bounds of whole tiles, and whether they are exact,
are the business of `tile_bounds.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from flexdsl.analysis.affine import Linear, LinearForms, divisor_of
from flexdsl.analysis.closed_form import BOTTOM, MAX_INTERVALS, TOP, TRUE, Declined
from flexdsl.analysis.prove import Prover, split_comparison
from flexdsl.analysis.residues import Residue, residue_of
from flexdsl.analysis.truth import flatten
from flexdsl.analysis.values import is_constant, substitute
from flexdsl.ir import Expr, Op, Type, apply, const, var, walk
from flexdsl.ir.ops import COMPARISONS, NEGATED

MAX_CHOICES = 4  # conditions on one axis that are decided before a mask is solved
MAX_CASES = 64  # of min, max, abs and where in comparisons
MAX_UNFINISHED = 16  # pieces before those that are empty or contained have been dropped


@dataclass(frozen=True, slots=True)
class Piece:
    """[lower, upper) where `guard`, a condition without the inner variable, holds.

    With a residue, of these positions those that it holds for.
    """

    lower: Expr
    upper: Expr
    guard: Expr = TRUE
    residue: Residue | None = None


def largest(a: Expr, b: Expr) -> Expr:
    """max(a, b), without operands that others dominate."""
    return _extreme(Op.MAX, a, b)


def smallest(a: Expr, b: Expr) -> Expr:
    """min(a, b), without operands that others dominate."""
    return _extreme(Op.MIN, a, b)


def operands(op: Op, expr: Expr) -> list[Expr]:
    """The operands of nested min (or max) that `expr` is, itself if it is none."""
    return flatten(expr) if expr.op is op else [expr]


def _extreme(op: Op, a: Expr, b: Expr) -> Expr:
    forms = LinearForms()
    kept: list[Expr] = []
    for new in operands(op, a) + operands(op, b):
        if any(_dominates(op, old, new, forms) for old in kept):
            continue
        kept = [old for old in kept if not _dominates(op, new, old, forms)] + [new]
    result, *rest = kept
    for other in rest:
        result = apply(op, result, other)
    return result


def _dominates(op: Op, a: Expr, b: Expr, forms: LinearForms) -> bool:
    """Is max(a, b) (or min) just `a`, whatever the values?"""
    if TOP in (a, b):
        return (a if op is Op.MAX else b) is TOP
    difference = forms.difference(a, b) if op is Op.MAX else forms.difference(b, a)
    return difference.constant >= 0 and all(c > 0 and _natural(x) for x, c in difference.terms)


def _natural(expr: Expr) -> bool:
    """Is the value never negative, by its form?"""
    match expr.op:
        case Op.CONST:
            return isinstance(expr.attribute, int) and expr.attribute >= 0
        case Op.VAR | Op.ABS:
            return expr.type is Type.INDEX
        case Op.FLOORDIV | Op.SHR:
            return divisor_of(expr) is not None and _natural(expr.args[0])
        case Op.MOD:
            return _natural(expr.args[1])
        case Op.MAX:
            return any(_natural(a) for a in expr.args)
        case Op.ADD | Op.MUL | Op.MIN:
            return all(_natural(a) for a in expr.args)
        case _:
            return False


class Solver:
    """Solves conditions for `inner`. `prover` knows the other variables' ranges.

    Args:
        residues: conditions on remainders of `inner` are taken as they stand; else declined.
    """

    def __init__(self, inner: str, prover: Prover, residues: bool = False) -> None:
        self.inner, self.residues = inner, residues
        self.prover = prover.timeless
        self.forms = LinearForms()
        self._cases = MAX_CASES

    def solve_mask(self, mask: Expr) -> list[Piece]:
        """The union of pieces of a whole mask, apart for each way that its choices go.

        A choice is the condition of a where on one axis alone, as "is this query noised?": with it
        decided a mask is often much simpler. Raises `Declined`.
        """
        choices = _choices(mask)
        if not 0 < len(choices) <= MAX_CHOICES:
            return self.solve(mask)
        choice = choices[0]
        branches = [
            self._meet(
                self.solve(choice, no), self.solve_mask(_decided(mask, choice, not no)), mask
            )
            for no in (False, True)
        ]
        return self._join(branches[0], branches[1], mask)

    def solve(self, node: Expr, negated: bool = False) -> list[Piece]:
        """The union of pieces on which `node` holds (or does not). Raises `Declined`."""
        if self.inner not in node.variables:
            return self._guard(node, negated)
        match node.op:
            case Op.AND | Op.OR:
                return self._junction(node, negated)
            case Op.NOT:
                return self.solve(node.args[0], not negated)
            case Op.WHERE:
                condition, a, b = node.args
                on_a = self._meet(self.solve(condition), self.solve(a, negated), node)
                on_b = self._meet(self.solve(condition, True), self.solve(b, negated), node)
                return self._join(on_a, on_b, node)
            case Op.LOAD:
                raise Declined(f"{node!r} is read at {self.inner}", node)
        if node.op in COMPARISONS:
            return self._comparison(node, negated)
        raise Declined(f"{node!r} is not a comparison of {self.inner}", node)

    def _guard(self, node: Expr, negated: bool) -> list[Piece]:
        self._check_loads(node)
        guard = apply(Op.NOT, node) if negated else node
        return [] if is_constant(guard, False) else [Piece(BOTTOM, TOP, guard)]

    def _check_loads(self, expr: Expr) -> None:
        """An end may only load what one outer position chooses."""
        if not expr.loads:
            return
        known = {"b", "h", self.prover.outer} - {self.inner}
        for node in walk(expr):
            if node.op is Op.LOAD and not node.variables <= known:
                where = " and ".join(sorted(node.variables - known))
                raise Declined(f"{node!r} is read at {where}", node)

    def _junction(self, node: Expr, negated: bool) -> list[Piece]:
        conjunction = (node.op is Op.AND) != negated
        combine = self._meet if conjunction else self._join
        first, *rest = (self.solve(part, negated) for part in flatten(node))
        for other in rest:
            first = combine(first, other, node)
        return first

    def _comparison(self, node: Expr, negated: bool) -> list[Piece]:
        a, b = node.args
        if a.type is Type.BOOL:
            equal = (node.op is Op.EQ) != negated
            both = self._meet(self.solve(a), self.solve(b, not equal), node)
            neither = self._meet(self.solve(a, True), self.solve(b, equal), node)
            return self._join(both, neither, node)
        if a.type is Type.FLOAT:
            raise Declined(f"{node!r} compares floats", node)
        residue = self._residue(node, negated)
        if residue is not None:
            return [Piece(BOTTOM, TOP, TRUE, residue)]
        op = NEGATED[node.op] if negated else node.op
        return self._solve_order(op, self.forms.difference(a, b), node)

    def _residue(self, node: Expr, negated: bool) -> Residue | None:
        residue = residue_of(node, negated, self.inner, self.prover) if self.residues else None
        if residue is not None:
            self._check_loads(residue.x.without(var(self.inner)).to_expr())
        return residue

    def _solve_order(self, op: Op, form: Linear, node: Expr) -> list[Piece]:
        """Solve `form op 0`."""
        comparison = apply(op, form.to_expr(), const(0))
        cases = split_comparison(comparison, self.forms, self._is_split)
        if cases is not None:
            self._cases -= 1
            if self._cases < 0:
                raise Declined(f"{node!r} has more than {MAX_CASES} cases", node)
            return self.solve(cases)
        if op in (Op.EQ, Op.NE):
            low, high = (Op.LE, Op.GE) if op is Op.EQ else (Op.LT, Op.GT)
            combine = self._meet if op is Op.EQ else self._join
            sides = [self._solve_order(side, form, node) for side in (low, high)]
            return combine(sides[0], sides[1], node)
        # From here on: form < 0.
        if op in (Op.GT, Op.GE):
            form = form.times(-1)
        if op in (Op.LE, Op.GE):
            form = form.plus(Linear((), 1), -1)
        return self._solve_less(form, node)

    def _is_split(self, atom: Expr) -> bool:
        """Is a min, max, abs or where to be split into cases?

        One of the outer variable may stand in an end, but for a choice, which makes it jump.
        """
        chosen = atom.op is Op.WHERE and self.prover.outer in atom.args[0].variables
        return chosen or self.inner in atom.variables

    def _solve_less(self, form: Linear, node: Expr) -> list[Piece]:
        """Solve c * atom + rest < 0, where `atom` alone has the inner variable."""
        atoms = [t for t in form.terms if self.inner in t[0].variables]
        if self.inner == self.prover.outer and atoms:
            # A condition on the outer positions themselves, of which the prover knows the range.
            less = apply(Op.LT, form.to_expr(), const(0))
            if self.prover.always(less):
                return [Piece(BOTTOM, TOP)]
            if self.prover.always(apply(Op.NOT, less)):
                return []
        if len(atoms) != 1:
            form = self._without_remainders(form)
            atoms = [t for t in form.terms if self.inner in t[0].variables]
        if not atoms:
            return self._guard(apply(Op.LT, form.to_expr(), const(0)), False)
        atom, coefficient = atoms[0]
        if len(atoms) > 1:
            raise Declined(f"{node!r} has {self.inner} in several terms", node)
        rest = form.without(atom)
        self._check_loads(rest.to_expr())
        if coefficient > 0:
            ceiling = rest.times(-1).plus(Linear((), coefficient - 1))
            return self._below(atom, _quotient(ceiling, coefficient), node)
        # The least integer above rest / c is floor((rest + c) / c).
        above = rest.plus(Linear((), -coefficient))
        return self._from(atom, _quotient(above, -coefficient), node)

    def _without_remainders(self, form: Linear) -> Linear:
        """x - x % T is T * (x // T), in which the inner variable stands once."""
        return without_remainders(form, self.forms, lambda x: self.inner in x.variables)

    def _below(self, atom: Expr, end: Expr, node: Expr) -> list[Piece]:
        """Solve atom < end."""
        if atom.op is Op.VAR:
            return [Piece(BOTTOM, end)]
        return self._solve_less(self._undivided(atom, end, node), node)

    def _from(self, atom: Expr, end: Expr, node: Expr) -> list[Piece]:
        """Solve atom >= end."""
        if atom.op is Op.VAR:
            return [Piece(largest(BOTTOM, end), TOP)]
        form = self._undivided(atom, end, node)
        return self._solve_less(form.times(-1).plus(Linear((), 1), -1), node)

    def _undivided(self, atom: Expr, end: Expr, node: Expr) -> Linear:
        """x // T < end is x - T * end < 0."""
        divisor = divisor_of(atom)
        if divisor is None:
            if atom.op is Op.MOD:
                raise Declined(f"{atom!r} comes again and again along {self.inner}", node)
            what = "is read at" if atom.op is Op.LOAD else "cannot be solved for"
            raise Declined(f"{atom!r} {what} {self.inner}", node)
        return self.forms.of(atom.args[0]).plus(self.forms.of(end), -divisor)

    def _meet(self, a: list[Piece], b: list[Piece], node: Expr) -> list[Piece]:
        """The intersection of two unions."""
        pieces = [
            Piece(
                largest(x.lower, y.lower),
                smallest(x.upper, y.upper),
                apply(Op.AND, x.guard, y.guard),
                _met(x.residue, y.residue, node),
            )
            for x in a
            for y in b
        ]
        return self._tidy(pieces, node)

    def _join(self, a: list[Piece], b: list[Piece], node: Expr) -> list[Piece]:
        """The union of two unions."""
        return self._tidy(a + b, node)

    def _tidy(self, pieces: list[Piece], node: Expr) -> list[Piece]:
        """Drop pieces that are empty or contained in another, and merge what makes one interval."""
        if len(pieces) > MAX_UNFINISHED:
            raise Declined(f"{node!r} has more than {MAX_INTERVALS} intervals", node)
        kept: list[Piece] = []
        for piece in pieces:
            if self._is_empty(piece):
                continue
            kept.append(piece)
            self._absorb_last(kept)
        return kept

    def _absorb_last(self, kept: list[Piece]) -> None:
        """Merge the last piece with the others until nothing merges."""
        merged = True
        while merged:
            merged = False
            for k in range(len(kept) - 1):
                union = self._merge(kept[k], kept[-1])
                if union is not None:
                    kept.pop()
                    kept[k] = union
                    kept.append(kept.pop(k))
                    merged = True
                    break

    def _is_empty(self, piece: Piece) -> bool:
        if is_constant(piece.guard, False) or self._at_most(piece.upper, piece.lower):
            return True
        return piece.guard is not TRUE and self.prover.always(apply(Op.NOT, piece.guard))

    def _at_most(self, a: Expr, b: Expr) -> bool:
        return a is BOTTOM or b is TOP or self.prover.always(apply(Op.LE, a, b))

    def _merge(self, a: Piece, b: Piece) -> Piece | None:
        """One piece that is the union of two, or None."""
        same = _are_same(a.residue, b.residue)
        if a.guard is b.guard and same:
            if a.lower is b.lower:
                return replace(a, upper=largest(a.upper, b.upper))
            if a.upper is b.upper:
                return replace(a, lower=smallest(a.lower, b.lower))
        for x, y in ((a, b), (b, a)):
            implied = x.guard is TRUE or x.guard is y.guard
            implied = implied and (same or x.residue is None)
            if implied and self._at_most(x.lower, y.lower) and self._at_most(y.upper, x.upper):
                return x
        if a.guard is b.guard and same and self._touch(a, b):
            lower, upper = smallest(a.lower, b.lower), largest(a.upper, b.upper)
            return replace(a, lower=lower, upper=upper)
        return None

    def _touch(self, a: Piece, b: Piece) -> bool:
        """Do two pieces overlap or adjoin at every outer position?

        Where one is inside out (upper < lower), both its ends lie in the other: no harm is done.
        """
        return self._at_most(a.lower, b.upper) and self._at_most(b.lower, a.upper)


def _met(a: Residue | None, b: Residue | None, node: Expr) -> Residue | None:
    """What holds where both residues do. Raises `Declined`."""
    if a is None or b is None:
        return a or b
    both = a.met(b)
    if both is None:
        raise Declined(f"{a.node!r} and {b.node!r} are asked of the same pairs", node)
    return both


def _are_same(a: Residue | None, b: Residue | None) -> bool:
    return a is b or (a is not None and b is not None and a.is_same(b))


def _choices(mask: Expr) -> list[Expr]:
    """The conditions of every where, of numbers or of conditions, that know only q, or only kv."""
    conditions = dict.fromkeys(node.args[0] for node in walk(mask) if node.op is Op.WHERE)
    return [c for c in conditions if c.op in COMPARISONS and c.variables in ({"q"}, {"kv"})]


def _decided(mask: Expr, condition: Expr, value: bool) -> Expr:
    """`mask` where `condition` is true, or is false."""
    opposite = apply(Op.NOT, condition)
    decided = {condition: const(value), opposite: const(not value)}
    # A load is made for every row of a tile: its index stays inside the tensor at all of them.
    return substitute(mask, decided | {n: n for n in walk(mask) if n.op is Op.LOAD})


def without_remainders(form: Linear, forms: LinearForms, wanted: Callable[[Expr], bool]) -> Linear:
    """Every wanted x % T replaced by x - T * (x // T), for constant positive T."""
    result = Linear((), form.constant)
    for atom, coefficient in form.terms:
        divisor = atom.args[1].attribute if atom.op is Op.MOD else None
        if isinstance(divisor, int) and divisor > 0 and wanted(atom):
            quotient = apply(Op.FLOORDIV, *atom.args)
            result = result.plus(forms.of(atom.args[0]), coefficient)
            result = result.plus(forms.of(quotient), -coefficient * divisor)
        else:
            result = result.plus(Linear(((atom, coefficient),), 0))
    return result


def _quotient(form: Linear, divisor: int) -> Expr:
    """form // divisor."""
    return apply(Op.FLOORDIV, form.to_expr(), const(divisor))
