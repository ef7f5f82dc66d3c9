"""Terms of a score that a whole row has: Hopper's forward kernel adds them to the logsumexp alone.

    score + slope * (q_first - q) + slope * (kv - q_first)

Weights are the same without the second term. So no pair computes it; it is added once, to the
logsumexp. Taken are terms that came of splitting one in two (`analysis/separable.py`), which are
infinite where the other part is: of a term that a user wrote, -inf may say that a row has no keys.
"""

from __future__ import annotations

from flexdsl.analysis.terms import terms_of
from flexdsl.ir import Expr, Op, apply, const

from ..kernel import KernelSpec
from ..lower import Lowering, Scope
from ..tiles import loads_at
from ..writer import Block

_ORIGIN = "q_first"  # the variable that splitting brings in


def parted(score: Expr) -> tuple[Expr, Expr | None]:
    """A score without its terms of a row, and their sum; None where it has none."""
    rest, of_row = None, const(0.0)
    for term, negative in terms_of(score, False):
        op = Op.SUB if negative else Op.ADD
        if _ORIGIN in term.variables and not term.variables & {"kv", "score"}:
            of_row = apply(op, of_row, term)
        elif rest is None:
            rest = apply(Op.NEG, term) if negative else term
        else:
            rest = apply(op, rest, term)
    if rest is None or of_row == const(0.0):
        return score, None
    return rest, of_row


def write_sum(body: Block, spec: KernelSpec, lowering: Lowering) -> None:
    """Write their sum in each row of a work, if there are any."""
    of_row = None if spec.score is None else parted(spec.score.expr)[1]
    if of_row is None:
        return
    row = "gl.minimum(row, q_len - 1)" if loads_at("q", spec) else "row"
    places = {"b": "b", "h": "h", "q": f"(q_offset + {row})", "q_first": "(q_offset + q_start)"}
    (text,) = lowering.lower([of_row], Scope(body.block(), None, places))
    body.line(f"row_score = {text}")


def sum_of(spec: KernelSpec) -> str:
    """What a logsumexp gets more, with its sign; "" for nothing."""
    has_any = spec.score is not None and parted(spec.score.expr)[1] is not None
    return " + row_score" if has_any else ""
