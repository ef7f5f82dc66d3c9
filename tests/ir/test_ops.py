"""The table of ops is complete: every op has a meaning and a place in each room that lists them."""

from __future__ import annotations

import pytest

from flexdsl.ir import OPS, Op, Operands, Type
from flexdsl.ir.evaluate import NUMPY
from flexdsl.ir.ops import ATOM, COMPARISONS, CONDITIONAL, LEAVES, NEGATED
from flexdsl.ir.scalar import SCALAR

INNER = set(Op) - LEAVES - {Op.LOAD}
CONVERSIONS = {Op.TO_FLOAT, Op.TO_INDEX}


def test_every_op_has_a_row():
    assert set(OPS) == set(Op)
    assert all(row.doc for row in OPS.values())


def test_every_op_has_a_meaning_on_numbers_and_on_arrays():
    assert set(SCALAR) == INNER
    assert set(NUMPY) == INNER - CONVERSIONS


def test_spellings_are_distinct_within_an_arity():
    spelled = [(row.symbol, row.arity) for row in OPS.values() if row.symbol]
    assert len(spelled) == len(set(spelled)) == len(INNER)


@pytest.mark.parametrize("op", sorted(INNER, key=lambda op: op.value))
def test_row_is_consistent(op):
    row = OPS[op]
    assert row.precedence == 0 or CONDITIONAL <= row.precedence < ATOM
    assert (row.arity == 3) == (row.operands is Operands.SELECT)
    assert not row.commutative or row.arity == 2
    if row.precedence == 0:
        assert row.symbol.isidentifier()


def test_negation_of_comparisons_is_an_involution_on_all_of_them():
    assert set(NEGATED) == COMPARISONS
    assert all(NEGATED[NEGATED[op]] is op for op in COMPARISONS)
    assert all(OPS[op].result is Type.BOOL for op in COMPARISONS)
    for op in COMPARISONS:
        for a in range(3):
            for b in range(3):
                assert SCALAR[op](a, b) is not SCALAR[NEGATED[op]](a, b)


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].commutative])
def test_commutative_ops_commute(op):
    pairs = [(True, False), (False, False)] if OPS[op].operands is Operands.BOOLS else [(5, -3)]
    for a, b in pairs:
        assert SCALAR[op](a, b) == SCALAR[op](b, a)
