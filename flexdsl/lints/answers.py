"""What a mask answers: the same for every pair, or to some query never yes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flexdsl.analysis.truth import Judge
from flexdsl.analysis.values import bind
from flexdsl.ir import Op, Program, apply, captures_of
from flexdsl.lints.finding import Finding, place_of
from flexdsl.lints.sizes import LENGTH, sample_plan

LONG = 2**20  # positions for which a mask without captured tensors is judged
MANY = 64  # batches and heads


def find_constant(program: Program) -> Iterator[Finding]:
    """A mask that answers the same for all pairs that it can be asked about."""
    if captures_of(program.expr):
        answer, where = _sampled_answer(program)
    else:
        answer, where = _proven_answer(program), ""
    if answer is None:
        return
    yield Finding(
        "always-true" if answer else "always-false",
        f"{program.name} allows {'every' if answer else 'no'} pair{where}",
        "no tile is skipped, and attention is dense" if answer else "every row of the output is 0",
        "no mask at all" if answer else "a condition that some pair of positions meets",
        place_of(program, program.expr),
    )


def _proven_answer(program: Program) -> bool | None:
    """What the mask says of every pair of a million positions, if that is one answer."""
    ends = {"b": MANY, "h": MANY, "q": LONG, "kv": LONG}
    box = {n: (np.array([0]), np.array([end - 1])) for n, end in ends.items()}
    bindings = bind(program.values, program.expr)
    answers = {True: program.expr, False: apply(Op.NOT, program.expr)}
    proven = (a for a, e in answers.items() if Judge(e, bindings).truth(box).always.all())
    return next(proven, None)


def _sampled_answer(program: Program) -> tuple[bool | None, str]:
    """What it says of every pair that captured tensors are long enough for, and how many."""
    plan = sample_plan(program)
    if plan is None or min(plan.q_len, plan.kv_len) == LENGTH:
        return None, ""
    everything = plan.q_len * plan.kv_len * plan.batch * plan.heads
    answer = {0: False, everything: True}.get(plan.pairs)
    return answer, f" of {plan.q_len} queries and {plan.kv_len} keys"


def find_empty_rows(program: Program) -> Iterator[Finding]:
    """A query that sees no key at all."""
    plan = sample_plan(program)
    if plan is None or plan.pairs == 0 or not plan.may_have_empty_rows:
        return
    empty = ~np.asarray(plan.to_dense(tokens=True).any(3))
    _, h, row = (int(x) for x in np.argwhere(empty)[0])
    of_head = f" of head {h}" if plan.depends_on_head else ""
    count = f"{int(empty[0].any(0).sum())} of {plan.q_len}"
    yield Finding(
        "empty-rows",
        f"{program.name} allows no key for the query at {row}{of_head} ({count} queries)",
        "their output is 0 and their lse -inf; in most models each token sees itself at least",
        "`or q == kv`, if that is not meant",
        place_of(program, program.expr),
    )
