"""Truth of a condition, and the range of a number, on many boxes in one pass.

A `Judge` is compiled from one expression: comparisons of indices become bounds on linear forms
(those on one form are intersected), all else goes through the table of transfer functions. NEVER
and ALWAYS are proofs. Boxes are given from outside; nothing here subdivides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from flexdsl.analysis.affine import Linear, LinearForms, divisor_of, without_quotients
from flexdsl.analysis.congruence import Residues
from flexdsl.analysis.domain import (
    FALSE,
    HALF,
    LIMIT,
    TRUE,
    UNBOUNDED,
    Array,
    Interval,
    Truth,
    Value,
)
from flexdsl.analysis.ranges import lanes_of
from flexdsl.analysis.steps import Box, Known, Step, interval_of, step_of
from flexdsl.analysis.values import Bindings, specialise
from flexdsl.errors import InternalError
from flexdsl.ir import Capture, Expr, Op, Type
from flexdsl.ir.ops import NEGATED

Compiled = tuple[list[Expr], Step]  # the nodes that a step needs, and the step

ORDERED = frozenset({Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ})


@dataclass(frozen=True, slots=True)
class Band:
    """low <= terms <= high, where `terms` is a linear form without constant."""

    terms: Linear
    low: int
    high: int

    def meet(self, other: Band) -> Band:
        """Both at once, for equal terms."""
        return Band(self.terms, max(self.low, other.low), min(self.high, other.high))


class Judge:
    """Decides one expression on boxes. `expr` is bool for `truth`, an index for `interval`."""

    def __init__(self, expr: Expr, bindings: Bindings) -> None:
        self.expr = specialise(expr, bindings)
        self.bindings = bindings
        self._forms = LinearForms()
        self._residues = Residues(self._forms)
        self._steps = self._compile()

    def truth(self, box: Box) -> Truth:
        """NEVER, MAYBE or ALWAYS in each lane of `box`."""
        result = self._run(box)
        if not isinstance(result, Truth):
            raise InternalError("the truth of a number was asked for")
        return result

    def interval(self, box: Box) -> Interval:
        """The range of the number in each lane of `box`."""
        result = self._run(box)
        if not isinstance(result, Interval):
            raise InternalError("the range of a bool was asked for")
        return result

    def _run(self, box: Box) -> Value:
        known: Known = {}
        with np.errstate(all="ignore"):
            for node, step, finished in self._steps:
                known[node] = step(known, box)
                for operand in finished:
                    del known[operand]
        return known[self.expr]

    def _compile(self) -> list[tuple[Expr, Step, list[Expr]]]:
        """Steps for the nodes that are needed, operands first, and what no later step needs."""
        compiled: dict[Expr, Compiled] = {}
        order: list[Expr] = []
        finished: set[Expr] = set()
        stack = [self.expr]
        while stack:
            node = stack.pop()
            if node in finished:
                continue
            if node in compiled:
                finished.add(node)
                order.append(node)
                continue
            compiled[node] = self._compile_node(node)
            stack.append(node)
            stack.extend(n for n in compiled[node][0] if n not in finished)
        last = {needed: node for node in order for needed in compiled[node][0]}
        unneeded: dict[Expr, list[Expr]] = {node: [] for node in order}
        for needed, node in last.items():
            unneeded[node].append(needed)
        return [(node, compiled[node][1], unneeded[node]) for node in order]

    def _compile_node(self, node: Expr) -> Compiled:
        if node.op in (Op.AND, Op.OR):
            return self._compile_junction(node)
        if node.type is Type.BOOL and node.args and node.args[0].type is Type.INDEX:
            band = self._band(node.op, node.args)
            if band is not None:
                return self._compile_band(band)
            band = self._complement(node)
            if band is not None:
                return _negated(self._compile_band(band))
        if node.type is Type.INDEX:
            form = self._forms.of(node)
            if form.terms != ((node, 1),):
                return [a for a, _ in form.terms], partial(_linear_step, form)
        return list(node.args), step_of(node, self.bindings)

    def _band(self, op: Op, args: tuple[Expr, ...]) -> Band | None:
        """The band that a comparison of indices is, with a positive first coefficient."""
        if op not in ORDERED or args[0].type is not Type.INDEX:
            return None
        form = self._forms.difference(*args)
        low = -form.constant + (op is Op.GT)
        high = -form.constant - (op is Op.LT)
        if op in (Op.LT, Op.LE):
            low = -LIMIT
        if op in (Op.GT, Op.GE):
            high = LIMIT
        terms = Linear(form.terms, 0)
        if terms.terms and terms.terms[0][1] < 0:
            terms, low, high = terms.times(-1), -high, -low
        return Band(terms, low, high)

    def _complement(self, node: Expr) -> Band | None:
        """The band whose complement a comparison is."""
        if node.op not in NEGATED or node.op is Op.EQ:
            return None
        return self._band(NEGATED[node.op], node.args)

    def _compile_junction(self, node: Expr) -> Compiled:
        """A chain of `and` (or of `or`, negated): bands on equal forms become one."""
        conjunction = node.op is Op.AND
        bands: dict[frozenset[tuple[Expr, int]], Band] = {}
        others: list[Expr] = []
        for part in flatten(node):
            band = self._band(part.op, part.args) if conjunction else self._complement(part)
            if band is None:
                others.append(part)
                continue
            key = frozenset(band.terms.terms)
            flipped = frozenset((a, -c) for a, c in key)
            if flipped in bands:
                band = Band(bands[flipped].terms, -band.high, -band.low)
                key = flipped
            bands[key] = bands[key].meet(band) if key in bands else band
        compiled = [self._compile_band(band) for band in bands.values()]
        if not conjunction:
            compiled = [_negated(c) for c in compiled]
        needed = [n for nodes, _ in compiled for n in nodes] + others
        steps = [step for _, step in compiled]
        return needed, partial(_junction_step, conjunction, steps, others)

    def _compile_band(self, band: Band) -> Compiled:
        residue = self._residues.of_terms(band.terms)
        low = band.low if band.low <= -LIMIT else residue.next_from(band.low)
        high = band.high if band.high >= LIMIT else residue.last_to(band.high)
        if residue.modulus == 0:
            value = TRUE if band.low <= residue.remainder <= band.high else FALSE
            return [], lambda known, box: value
        if low > high:
            return [], lambda known, box: FALSE
        variants = [(band.terms, 1)]
        if any(divisor_of(atom) for atom, _ in band.terms.terms):
            variants.append(without_quotients(band.terms, self._forms))
        needed = [atom for form, _ in variants for atom, _ in form.terms]
        step = partial(_band_step, variants, low, high)
        loads = [atom for atom in dict.fromkeys(needed) if atom.op is Op.LOAD and atom.args]
        if len(loads) != 1:
            return needed, step
        elements = partial(_elements_step, step, loads[0], needed, self.bindings)
        return [*needed, *loads[0].args], elements


def flatten(node: Expr) -> list[Expr]:
    """The operands of a chain of one `and` or `or`, left to right."""
    parts: list[Expr] = []
    stack = [node]
    while stack:
        part = stack.pop()
        if part.op is node.op:
            stack.extend(reversed(part.args))
        else:
            parts.append(part)
    return parts


def _negated(compiled: Compiled) -> Compiled:
    needed, step = compiled

    def negated(known: Known, box: Box) -> Value:
        truth = step(known, box)
        assert isinstance(truth, Truth)
        return truth.negated()

    return needed, negated


def _sum(form: Linear, known: Known) -> Interval:
    """The interval of a linear form."""
    magnitude = abs(form.constant)
    lo: Array = np.asarray(0, np.int64)
    hi = lo
    ranges = [(interval_of(known[atom]), c) for atom, c in form.terms]
    magnitude += sum(r.magnitude * abs(c) for r, c in ranges)
    if magnitude >= HALF:
        return UNBOUNDED
    for r, c in ranges:
        first, last = (r.lo, r.hi) if c > 0 else (r.hi, r.lo)
        lo, hi = lo + first * c, hi + last * c
    return Interval(lo + form.constant, hi + form.constant, magnitude)


def _linear_step(form: Linear, known: Known, box: Box) -> Value:
    return _sum(form, known)


def _band_step(
    variants: list[tuple[Linear, int]], low: int, high: int, known: Known, box: Box
) -> Value:
    """Every variant has the same value, up to its factor, so what any of them decides holds."""
    truth = Truth(np.asarray(False), np.asarray(True))
    for form, factor in variants:
        truth = _agree(truth, _within(_sum(form, known), low * factor, high * factor))
    return truth


def _elements_step(
    step: Step, load: Expr, needed: list[Expr], bindings: Bindings, known: Known, box: Box
) -> Value:
    """A band with one load: where that has few elements, the band is asked of each of them."""
    truth = step(known, box)
    assert isinstance(truth, Truth) and isinstance(load.attribute, Capture)
    array = bindings.arrays.get(load.attribute.name)
    if array is None or not array.size:
        return truth
    table = bindings.table(load.attribute.name)
    indices = [interval_of(known[a]) for a in load.args]
    ends = [i.lo for i in indices], [i.hi for i in indices]
    unsure = truth.maybe & table.are_few(*ends)
    if not unsure.any():
        return truth
    # What is unbounded has one lane for all boxes, whatever the lanes of its operands.
    ranges = [interval_of(known[n]) for n in needed]
    lanes = (end.shape for r in ranges for end in (r.lo, r.hi))
    unsure = np.broadcast_to(unsure, np.broadcast_shapes(unsure.shape, *lanes))
    chosen = {n: _lanes_of(r, unsure) for n, r in zip(needed, ranges, strict=True)}
    always, possible = TRUE.always, FALSE.possible
    for found in table.members(*(lanes_of(e, unsure) for e in ends)):
        element = found.astype(np.int64)
        of_element = step({**chosen, load: replace(chosen[load], lo=element, hi=element)}, box)
        assert isinstance(of_element, Truth)
        always, possible = always & of_element.always, possible | of_element.possible
    whole = [np.array(np.broadcast_to(x, unsure.shape)) for x in (truth.always, truth.possible)]
    whole[0][unsure], whole[1][unsure] = always, possible
    return Truth(whole[0], whole[1])


def _lanes_of(r: Interval, chosen: Array) -> Interval:
    lo, hi = lanes_of([r.lo, r.hi], chosen)
    return Interval(lo, hi, r.magnitude)


def _within(r: Interval, low: int, high: int) -> Truth:
    """low <= value <= high; an end at LIMIT or past it is no bound."""
    always, possible = np.asarray(True), np.asarray(True)
    if low > -LIMIT:
        always, possible = always & (r.lo >= low), possible & (r.hi >= low)
    if high < LIMIT:
        always, possible = always & (r.hi <= high), possible & (r.lo <= high)
    return Truth(always, possible)


def _agree(a: Truth, b: Truth) -> Truth:
    """Two sound answers about one condition."""
    return Truth(a.always | b.always, a.possible & b.possible)


def _junction_step(
    conjunction: bool, steps: list[Step], others: list[Expr], known: Known, box: Box
) -> Value:
    result: Truth = TRUE if conjunction else FALSE
    for value in (*(step(known, box) for step in steps), *(known[n] for n in others)):
        assert isinstance(value, Truth)
        result = result.both(value) if conjunction else result.either(value)
    return result
