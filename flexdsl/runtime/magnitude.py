"""How large the numbers get that a score computes for each query or each key.

They are looked at once while nothing changes that they are made of (`memory.py`), which waits for
the GPU. Where a change would not be seen, nobody looks, and they count as infinite; so do numbers
of a tensor that is learned, which changes with each step.
"""

from __future__ import annotations

import math

import torch

from flexdsl.ir import Expr, Program, captures_of
from flexdsl.runtime.bind import Lengths
from flexdsl.runtime.evaluate import evaluate
from flexdsl.runtime.memory import Memory, changes_unseen

_REMEMBERED = 64  # most recent numbers
_LARGEST = Memory(_REMEMBERED)


def largest_number(number: Expr, program: Program, lengths: Lengths) -> float:
    """The largest that `number` is at any query, key, head and batch: infinite where NaN is, 0
    where there is none.

    Args:
        number: of some variables of `program`, and of what that captures; not negative.
    """
    values = {c.name: program.values[c.name] for c in captures_of(number)}
    tensors = [v for v in values.values() if isinstance(v, torch.Tensor)]
    if changes_unseen(tensors) or any(t.requires_grad for t in tensors):
        return math.inf
    return _LARGEST.get((program,), (number, lengths), lambda: _look(number, program, lengths))


def _look(number: Expr, program: Program, lengths: Lengths) -> float:
    device = next((v.device for v in program.values.values() if isinstance(v, torch.Tensor)), None)
    variables = {
        name: torch.arange(x.start, x.stop, device=device).view([-1] + [1] * (3 - i))
        for i, (name, x) in enumerate(lengths.positions.items())
        if name in number.variables
    }
    with torch.no_grad():
        found = evaluate(number, variables, program.values)
    largest = found.max().item() if found.numel() else 0.0
    return largest if largest == largest else math.inf
