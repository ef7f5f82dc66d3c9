"""Terms of a score that cancel in the softmax: they depend on the query, and not on the key."""

from __future__ import annotations

from collections.abc import Iterator

from flexdsl.ir import Expr, Op, Program, print_expr
from flexdsl.lints.finding import Finding, place_of


def find_cancelled(program: Program) -> Iterator[Finding]:
    """Terms of the sum that a score is, which are one number for a whole row."""
    terms = list(_terms(program.expr))
    if len(terms) < 2:
        return
    for term in terms:
        if (term.op is Op.CONST and term.attribute == 0) or term.variables & {"kv", "score"}:
            continue
        yield Finding(
            "cancels",
            f"{print_expr(term)} is the same for every key",
            "softmax subtracts what all scores of a row have in common: only lse changes",
            "a term that depends on kv, or nothing",
            place_of(program, term),
        )


def _terms(expr: Expr) -> Iterator[Expr]:
    """The terms of sums and differences, outermost ones only."""
    if expr.op in (Op.ADD, Op.SUB, Op.NEG):
        for part in expr.args:
            yield from _terms(part)
    elif expr.op is Op.TO_FLOAT and expr.args[0].op in (Op.ADD, Op.SUB, Op.NEG):
        yield from _terms(expr.args[0])
    else:
        yield expr
