"""What the compiler makes of a mod, whatever the lengths: the words behind `mod.explain()`."""

from __future__ import annotations

from flexdsl.analysis.closed_form import TOP
from flexdsl.analysis.derivative import describe_steps
from flexdsl.analysis.differences import describe_tables, find_tables, with_loads
from flexdsl.analysis.gradient import explain_gradients
from flexdsl.analysis.products import describe_products, find_most_products
from flexdsl.analysis.separable import describe_factors
from flexdsl.analysis.typical import typical_closed_form
from flexdsl.ir import Kind, Program


def explain_program(program: Program) -> str:
    """The text of a program; of a mask, its loops; of a score, its gradients and where it has none.

    A call's own plan knows the lengths and may do better: see `BlockPlan.explain`.
    """
    parts = [program.text]
    if program.kind is Kind.MASK:
        parts.append(_loops(program))
    else:
        parts += [
            *describe_products(find_most_products(program.expr)),
            *describe_tables(program.expr),
        ]
        left = set(describe_factors(with_loads(program.expr, find_tables(program.expr))))
        for line in describe_factors(program.expr):
            parts.append(line if line in left else f"{line}; where a call has no table of it")
        parts.append(explain_gradients(program.expr))
        parts.append(describe_steps(program))
    return "\n".join(part for part in parts if part)


def _loops(mask: Program) -> str:
    form = typical_closed_form(mask)
    if form is None:
        return "a plan of it is a table of runs: fx.plan(mask, q_len, kv_len).explain() says why"
    if not form.intervals:
        return "no pair is allowed"
    ends = [(i.lower, "kv_len" if i.upper is TOP else i.upper) for i in form.intervals]
    keys = " or ".join(f"[{lower!r}, {upper})" for lower, upper in ends)
    return f"closed form: a row at q has the keys in {keys}; kernels compute their loops from it"
