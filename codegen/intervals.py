"""The interval semantics of a mask as Triton source: what every op does to ranges and to truths.

It is `analysis/interval.py` for many tiles at once, written into a kernel. A range has two names,
its ends, and a bound that no end passes, so that nothing wraps around in 64 bits; None stands for a
number of which nothing is known. What an op is not given here is unknown, and a condition on it may
hold or not: sound. Lanes whose elements are too large to reckon with, or NaN, are reported apart.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

from flexdsl.analysis.affine import Linear, LinearForms, divisor_of, without_quotients
from flexdsl.ir import Capture, DType, Expr, Op, Type, walk

from .abstract import (
    MAYBE,
    Range,
    Truth,
    and_text,
    compared,
    nested,
    or_text,
    row_text,
    term,
    where_text,
)
from .kernel import Role
from .lower import Lowering, constant
from .members import WORDS
from .writer import Block

LARGEST = 2**31  # elements and parameters beyond it are not reckoned with
TOO_LARGE = 2**63
# Ops whose range is a point where those of the operands are.
_EXACT = frozenset({Op.CONST, Op.VAR, Op.PARAM, Op.ADD, Op.SUB, Op.NEG, Op.MUL})
_RELATIONS = {
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
    Op.EQ: operator.eq,
    Op.NE: operator.ne,
}


@dataclass
class Intervals:
    """Writes ranges and truths of expressions into one block.

    Attributes:
        lowering: names and arguments of the kernel.
        block: where lines go.
        variables: the ranges of b, h, q and kv; their shapes broadcast.
        unknown: sources of bools: lanes of which nothing may be said.
    """

    lowering: Lowering
    block: Block
    variables: dict[str, Range]
    unknown: list[str] = field(default_factory=list[str])
    _forms: LinearForms = field(default_factory=LinearForms)
    _ranges: dict[Expr, Range | None] = field(default_factory=dict[Expr, Range | None])
    _truths: dict[Expr, Truth] = field(default_factory=dict[Expr, Truth])

    def truth(self, node: Expr) -> Truth:
        """The truth of a condition."""
        if node not in self._truths:
            found = self._truth(node)
            self._truths[node] = Truth(
                self._named("always", found.always), self._named("possible", found.possible)
            )
        return self._truths[node]

    def range(self, node: Expr) -> Range | None:
        """The range of a number."""
        if node not in self._ranges:
            made = self._index(node) if node.type is Type.INDEX else self._float(node)
            too_large = made is not None and made.bound >= TOO_LARGE
            self._ranges[node] = None if too_large else made
        return self._ranges[node]

    def _named(self, wanted: str, text: str) -> str:
        """A name for a value, where it is not one already."""
        if text.isidentifier() or text.isdigit() or text[0] == "~":
            return text
        name = self.lowering.names.fresh(wanted)
        self.block.line(f"{name} = {text}")
        return name

    def _make(self, wanted: str, low: str, high: str, bound: int = 0) -> Range:
        return Range(self._named(f"{wanted}_low", low), self._named(f"{wanted}_high", high), bound)

    def _truth(self, node: Expr) -> Truth:
        match node.op:
            case Op.CONST:
                return Truth(str(node.attribute), str(node.attribute))
            case Op.NOT:
                return self.truth(node.args[0]).negated()
            case Op.AND:
                return self.truth(node.args[0]).both(self.truth(node.args[1]))
            case Op.OR:
                return self.truth(node.args[0]).either(self.truth(node.args[1]))
            case Op.WHERE:
                condition, a, b = (self.truth(x) for x in node.args)
                chosen = condition.both(a).either(condition.negated().both(b))
                return Truth(or_text(chosen.always, and_text(a.always, b.always)), chosen.possible)
            case Op.LOAD:
                found = self._load(node)
                return Truth(f"({found.low} != 0)", f"({found.high} != 0)")
            case op if op in _RELATIONS:
                return self._relation(node)
        return MAYBE

    def _relation(self, node: Expr) -> Truth:
        a, b = node.args
        if a.type is Type.BOOL:
            x, y = self.truth(a), self.truth(b)
            same = x.both(y).either(x.negated().both(y.negated()))
            return same if node.op is Op.EQ else same.negated()
        if a.type is Type.FLOAT:
            first, second = self.range(a), self.range(b)
            return MAYBE if first is None or second is None else compared(node.op, first, second)
        form = self._forms.difference(a, b)
        if not form.terms:
            known = str(_RELATIONS[node.op](form.constant, 0))
            return Truth(known, known)
        forms = [form]
        if any(divisor_of(atom) for atom, _ in form.terms):
            forms.append(without_quotients(form, self._forms)[0])
        zero, truth = Range("0", "0"), self._common_elements(node)
        for form in forms:
            found = self._sum(form)
            if found is not None and found.bound < TOO_LARGE:
                one = compared(node.op, found, zero)
                always = or_text(truth.always, one.always)
                truth = Truth(always, and_text(truth.possible, one.possible))
        return truth

    def _common_elements(self, node: Expr) -> Truth:
        """Of `x[i] == y[j]` (or !=): can it hold, by the sets of the elements on both sides?"""
        loads = [a for a in node.args if a.op is Op.LOAD and _has_one_row(a)]
        if node.op not in (Op.EQ, Op.NE) or len(loads) < 2:
            return MAYBE
        words = zip(*(self._members(a) for a in loads), strict=True)
        common = " & ".join(f"(({x} & {y}) != 0)" for x, y in words)
        equal = Truth("False", self._named("common", common))
        return equal if node.op is Op.EQ else equal.negated()

    def _members(self, node: Expr) -> list[str]:
        """The words of the set of the elements that a load may read."""
        capture = node.attribute
        assert isinstance(capture, Capture)
        lengths = [self._length(capture, axis) for axis in range(capture.rank)]
        first, last = self._indices(node, capture, lengths)
        self.lowering.helpers.add("range_members")
        name = self.lowering.argument(Role.MEMBERS, capture.name, 0, f"{capture.name}_members")
        row, rows = row_text(first[:-1], lengths), " * ".join(["one", *lengths[:-1]])
        ends = ", ".join(f"{end} + zero" for end in (row, first[-1], last[-1]))
        found = [self.lowering.names.fresh(f"{capture.name}_word") for _ in range(WORDS)]
        call = f"range_members({name}, {ends}, {rows}, {lengths[-1]})"
        self.block.line(f"{', '.join(found)} = {call}")
        return found

    def _sum(self, form: Linear) -> Range | None:
        """The range of a linear form."""
        bound, low, high = abs(form.constant), "", ""
        for atom, coefficient in form.terms:
            found = self.range(atom)
            if found is None:
                return None
            bound += abs(coefficient) * found.bound
            ends = (found.low, found.high)[:: 1 if coefficient > 0 else -1]
            low, high = low + term(coefficient, ends[0]), high + term(coefficient, ends[1])
        if not form.terms or form.constant:
            low, high = (text + term(form.constant, "1") for text in (low, high))
        low, high = (f"-{x[3:]}" if x.startswith(" - ") else x[3:] for x in (low, high))
        return self._make("sum", low, high, bound) if form.terms else Range(low, high, bound)

    def _index(self, node: Expr) -> Range | None:
        form = self._forms.of(node)
        if form.terms != ((node, 1),):
            return self._sum(form)
        match node.op:
            case Op.VAR:
                return self.variables[str(node.attribute)]
            case Op.PARAM:
                return self._parameter(node)
            case Op.LOAD:
                return self._load(node)
            case Op.WHERE:
                return self._choice(node)
        args = [self.range(a) for a in node.args]
        if any(a is None for a in args):
            return None
        return self._operation(node, [a for a in args if a is not None])

    def _operation(self, node: Expr, args: list[Range]) -> Range | None:
        divisor = divisor_of(node)
        match node.op:
            case Op.FLOORDIV | Op.SHR if divisor is not None:
                return self._make("quotient", *self._divided(args[0], divisor), args[0].bound)
            case Op.MOD if _positive(node.args[1]) is not None:
                return self._remainder(args[0], _positive(node.args[1]) or 1)
            case Op.BITAND if _positive(node.args[1]) is not None:
                most = _positive(node.args[1]) or 0
                return self._make(
                    "bits",
                    "tl.full([1, 1], 0, tl.int64)",
                    f"tl.full([1, 1], {most}, tl.int64)",
                    most,
                )
            case Op.MUL:
                return self._product(args[0], args[1])
            case Op.MIN | Op.MAX | Op.ABS | Op.NEG:
                return self._monotone(node.op, args)
        return None

    def _parameter(self, node: Expr) -> Range:
        name = self.lowering.argument(Role.PARAMETER, str(node.attribute))
        value = self._named(f"{name}_value", f"{name}.to(tl.int64)")
        self.unknown.append(f"({value} < -{LARGEST}) | ({value} > {LARGEST})")
        return Range(value, value, LARGEST)

    def _divided(self, a: Range, divisor: int) -> tuple[str, str]:
        self.lowering.helpers.add("floor_div")
        return f"floor_div({a.low}, {divisor})", f"floor_div({a.high}, {divisor})"

    def _remainder(self, a: Range, divisor: int) -> Range:
        """Exact inside one period, else every remainder."""
        first, last = (self._named("period", t) for t in self._divided(a, divisor))
        same = self._named("same", f"{first} == {last}")
        low = f"tl.where({same}, {a.low} - {first} * {divisor}, 0)"
        high = f"tl.where({same}, {a.high} - {first} * {divisor}, {divisor - 1})"
        return self._make("remainder", low, high, divisor)

    def _product(self, a: Range, b: Range) -> Range | None:
        bound = a.bound * b.bound
        if bound >= TOO_LARGE:
            return None
        return self._make("product", *self._corners(a, b), bound)

    def _corners(self, a: Range, b: Range) -> tuple[str, str]:
        """Least and greatest product of ends."""
        pairs = ((x, y) for x in (a.low, a.high) for y in (b.low, b.high))
        ends = [self._named("corner", f"{x} * {y}") for x, y in pairs]
        return nested("tl.minimum", ends), nested("tl.maximum", ends)

    def _monotone(self, op: Op, args: list[Range]) -> Range:
        bound = max(a.bound for a in args)
        if op is Op.NEG:
            return self._make("negative", f"-{args[0].high}", f"-{args[0].low}", bound)
        if op is Op.ABS:
            a = args[0]
            inside = f"({a.low} <= 0) & ({a.high} >= 0)"
            ends = f"tl.abs({a.low}), tl.abs({a.high})"
            low = f"tl.where({inside}, 0, tl.minimum({ends}))"
            return self._make("magnitude", low, f"tl.maximum({ends})", bound)
        name = "tl.minimum" if op is Op.MIN else "tl.maximum"
        a, b = args
        low, high = f"{name}({a.low}, {b.low})", f"{name}({a.high}, {b.high})"
        return self._make(op.value, low, high, bound)

    def _choice(self, node: Expr) -> Range | None:
        condition = self.truth(node.args[0])
        a, b = self.range(node.args[1]), self.range(node.args[2])
        if a is None or b is None:
            return None

        def end(x: str, y: str, join: str) -> str:
            undecided = where_text(condition.possible, f"{join}({x}, {y})", y)
            return where_text(condition.always, x, undecided)

        low, high = end(a.low, b.low, "tl.minimum"), end(a.high, b.high, "tl.maximum")
        return self._make("choice", low, high, max(a.bound, b.bound))

    def _float(self, node: Expr) -> Range | None:
        """Rounding never changes an order, so ends are rounded as the values are."""
        match node.op:
            case Op.CONST:
                text = constant(node)[0]
                return Range(text, text)
            case Op.PARAM:
                name = self.lowering.argument(Role.PARAMETER, str(node.attribute))
                return Range(name, name)
            case Op.LOAD:
                return self._load(node)
            case Op.WHERE:
                return self._choice(node)
        args = [self.range(a) for a in node.args]
        if any(a is None for a in args):
            return None
        known = [a for a in args if a is not None]
        match node.op:
            case Op.TO_FLOAT:
                low, high = (f"({x}).to(tl.float32)" for x in (known[0].low, known[0].high))
                return self._make("float", low, high)
            case Op.MIN | Op.MAX | Op.ABS | Op.NEG:
                return self._monotone(node.op, known)
            case Op.ADD:
                a, b = known
                return self._checked(f"{a.low} + {b.low}", f"{a.high} + {b.high}")
            case Op.SUB:
                a, b = known
                return self._checked(f"{a.low} - {b.high}", f"{a.high} - {b.low}")
            case Op.MUL:
                return self._checked(*self._corners(known[0], known[1]))
        return None

    def _checked(self, low: str, high: str) -> Range:
        """The range of a float sum or product, unknown where an infinity made it NaN."""
        found = self._make("float", low, high)
        self.unknown.append(f"({found.low} != {found.low}) | ({found.high} != {found.high})")
        return found

    def _load(self, node: Expr) -> Range:
        """From the element itself where there is one by its form, else from a box of elements."""
        capture = node.attribute
        assert isinstance(capture, Capture)
        lengths = [self._length(capture, axis) for axis in range(capture.rank)]
        first, last = self._indices(node, capture, lengths)
        row = self._named("row_of_load", row_text(first[:-1], lengths))
        elements = self.lowering.argument(Role.ELEMENTS, capture.name)
        if all(_is_point(index) for index in node.args):
            at = f"{row} * {lengths[-1]} + {first[-1]}" if node.args else "0"
            self.lowering.helpers.add("box_extremes")
            names = self._pair(capture, f"both_sides({elements} + {at})")
            low, high = names[0], f"complement({names[1]})"
        else:
            low, high = self._box(capture, elements, (row, first, last), lengths)
        if capture.dtype.type is not Type.FLOAT:
            low, high = f"{low}.to(tl.int64)", f"{high}.to(tl.int64)"
        found = self._make(capture.name, low, high, LARGEST)
        self._distrust(capture.dtype, found)
        return found

    def _distrust(self, dtype: DType, found: Range) -> None:
        """Report lanes whose elements are too large, or may be NaN."""
        if dtype is DType.I64:
            self.unknown.append(f"({found.low} < -{LARGEST}) | ({found.high} > {LARGEST})")
        if dtype.type is Type.FLOAT:
            ends = f'({found.low} == float("-inf")) & ({found.high} == float("inf"))'
            self.unknown.append(ends)

    def _indices(
        self, node: Expr, capture: Capture, lengths: list[str]
    ) -> tuple[list[str], list[str]]:
        """First and last index of each dimension, inside the tensor."""
        first: list[str] = []
        last: list[str] = []
        for index, length in zip(node.args, lengths, strict=True):
            found = self.range(index) or Range("0", f"{length} - 1")
            for ends, end in ((first, found.low), (last, found.high)):
                text = f"tl.minimum(tl.maximum({end}, 0), {length} - 1)"
                ends.append(self._named(f"{capture.name}_index", text))
        return first, last

    def _length(self, capture: Capture, axis: int) -> str:
        name = f"{capture.name}_length_{axis}"
        return self.lowering.argument(Role.LENGTH, capture.name, axis, name)

    def _box(
        self,
        capture: Capture,
        elements: str,
        box: tuple[str, list[str], list[str]],
        lengths: list[str],
    ) -> tuple[str, str]:
        """Least and greatest element of a box, which is given in indices that may be scalars."""
        self.lowering.helpers.add("box_extremes")
        name = self.lowering.argument(Role.EXTREMES, capture.name, 0, f"{capture.name}_extremes")
        row, first, last = box
        ends = (row, row_text(last[:-1], lengths), first[-1], last[-1])
        blocks = ", ".join(f"{end} + zero" for end in ends)
        rows = " * ".join(["one", *lengths[:-1]])
        call = f"box_extremes({elements}, {name}, {blocks}, {rows}, {lengths[-1]})"
        return self._pair(capture, call)

    def _pair(self, capture: Capture, call: str) -> tuple[str, str]:
        least, most = (self.lowering.names.fresh(f"{capture.name}_{n}") for n in ("least", "most"))
        self.block.line(f"{least}, {most} = {call}")
        return least, most


def _is_point(index: Expr) -> bool:
    """Is an index the same in a whole tile, by its form?"""
    return index.variables <= {"b", "h"} and all(n.op in _EXACT for n in walk(index))


def _has_one_row(load: Expr) -> bool:
    """Is only its last index another one within a tile, by its form?"""
    return len(load.args) > 0 and all(_is_point(index) for index in load.args[:-1])


def _positive(node: Expr) -> int | None:
    """The value of a positive constant."""
    value = node.attribute if node.op is Op.CONST else None
    return value if isinstance(value, int) and value > 0 else None
