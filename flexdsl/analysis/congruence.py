"""What is known of an index expression modulo a number, whatever the values of its variables.

A residue (m, r) says: the value is r modulo m; m = 0 says that it is the constant r, m = 1 says
nothing. It decides `4 * kv + 1 == 2 * q` and `(8 * q) % 4` where intervals cannot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flexdsl.analysis.affine import Linear, LinearForms
from flexdsl.ir import Expr, Op, Type, walk


@dataclass(frozen=True, slots=True)
class Residue:
    """The value is `remainder` modulo `modulus`."""

    modulus: int
    remainder: int

    def join(self, other: Residue) -> Residue:
        """What holds of both."""
        difference = abs(self.remainder - other.remainder)
        return _residue(math.gcd(self.modulus, other.modulus, difference), self.remainder)

    def plus(self, other: Residue, factor: int) -> Residue:
        """The sum with factor * other."""
        modulus = math.gcd(self.modulus, factor * other.modulus)
        return _residue(modulus, self.remainder + factor * other.remainder)

    def next_from(self, value: int) -> int:
        """The least number of this class that is at least `value`."""
        return value + (self.remainder - value) % self.modulus if self.modulus else self.remainder

    def last_to(self, value: int) -> int:
        """The largest number of this class that is at most `value`."""
        return value - (value - self.remainder) % self.modulus if self.modulus else self.remainder


UNKNOWN = Residue(1, 0)


def _residue(modulus: int, remainder: int) -> Residue:
    return Residue(modulus, remainder % modulus if modulus else remainder)


class Residues:
    """Residues of expressions, each found once."""

    def __init__(self, forms: LinearForms) -> None:
        self._forms = forms
        self._done: dict[Expr, Residue] = {}

    def of_terms(self, form: Linear) -> Residue:
        """The residue of a linear form without its constant."""
        result = Residue(0, 0)
        for atom, coefficient in form.terms:
            result = result.plus(self.of(atom), coefficient)
        return result

    def of(self, expr: Expr) -> Residue:
        """The residue of an index expression."""
        if expr not in self._done:
            for node in walk(expr):
                if node.type is Type.INDEX and node not in self._done:
                    self._done[node] = self._make(node)
        return self._done[expr]

    def _make(self, node: Expr) -> Residue:
        form = self._forms.of(node)
        if form.terms != ((node, 1),):
            return self.of_terms(form).plus(Residue(0, form.constant), 1)
        args = [self._done.get(a, UNKNOWN) for a in node.args]
        match node.op:
            case Op.MOD if args[1].modulus == 0 and args[1].remainder:
                divisor = args[1].remainder
                if args[0].modulus % divisor == 0:
                    return Residue(0, args[0].remainder % divisor)
                return _residue(math.gcd(args[0].modulus, divisor), args[0].remainder)
            case Op.MUL:
                a, b = args
                modulus = math.gcd(
                    a.modulus * b.modulus, a.modulus * b.remainder, b.modulus * a.remainder
                )
                return _residue(modulus, a.remainder * b.remainder)
            case Op.WHERE | Op.MIN | Op.MAX:
                return args[-2].join(args[-1])
            case _:
                return UNKNOWN
