"""Other values for what a mod captures: numbers, and the contents of tensors.

The user's function holds its own values, so under others the oracle is its expression, evaluated
pair by pair; that the two agree is checked where they share the values. What may be drawn is said
here; drawing is in `strategies.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flexdsl.errors import IndexRangeError
from flexdsl.ir import params_of
from flexdsl.testing.case import Case
from flexdsl.testing.limits import Limits, check_sizes
from flexdsl.testing.subject import Subject

# What becomes of the contents of captured tensors; the first one leaves them alone. Every value
# that they then have is one that they had, since a table's entries may be indices.
CONTENTS = ("own", "shuffled", "sorted", "constant")


def parameters_of(subject: Subject) -> dict[str, int | float]:
    """The captured numbers by name."""
    found: dict[str, int | float] = {}
    for program in subject.programs:
        for node in params_of(program.expr):
            name = str(node.attribute)
            found[name] = program.values[name]
    return found


def vary(subject: Subject, case: Case) -> Subject:
    """The subject with the case's parameters and contents; itself where the case changes nothing.

    Raises:
        IndexRangeError: with these values a captured tensor is read outside its range.
    """
    if case.contents == "own" and not case.parameters:
        return subject
    values: dict[str, Any] = dict(case.parameters)
    if case.contents != "own":
        captures = subject.captures.items()
        values |= {n: changed(torch.as_tensor(x), case.contents, case.seed) for n, x in captures}
    varied = subject.with_values(values, varied=True)
    ends = {"q_positions": case.q_offset + case.q_len, "kv_len": case.kv_len}
    check_sizes(varied, Limits(batch=case.batch, heads=case.heads, **ends))
    return varied


def fits(subject: Subject, case: Case) -> bool:
    """Are the case's values such that no captured tensor is read outside its range?"""
    try:
        vary(subject, case)
    except IndexRangeError:
        return False
    return True


def changed(tensor: Tensor, contents: str, seed: int) -> Tensor:
    """A tensor of the same shape whose elements are among those of `tensor`."""
    tensor = tensor.detach()
    flat = tensor.flatten()
    match contents:
        case "shuffled":
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(flat.numel(), generator=generator).to(flat.device)
            return flat[order].reshape(tensor.shape)
        case "sorted":
            return tensor.sort(-1).values if tensor.dim() else tensor.clone()
        case "constant":
            return flat[:1].expand(flat.shape).reshape(tensor.shape).clone()
    return tensor.clone()
