"""A backend against dense float64 attention: output, lse, gradients.

Bounds of errors follow the dtype: rounding of the elements, and of the arithmetic where scores are
large. They are not the accuracy that is aimed at, but what only a fault exceeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.errors import BackendError
from flexdsl.mod import Mod
from flexdsl.runtime.attention import attention
from flexdsl.runtime.reference import dense_attention
from flexdsl.testing.case import DTYPES, Case
from flexdsl.testing.function import Disagreement, check_score, modified_scores
from flexdsl.testing.subject import Subject

Pair = tuple[Tensor, Tensor]


@dataclass
class Errors:
    """The largest errors seen, by what was compared."""

    absolute: dict[str, float] = field(default_factory=dict)
    of_bound: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, error: float, bound: float) -> None:
        """Note an error and the bound that it had to keep."""
        self.absolute[name] = max(self.absolute.get(name, 0.0), error)
        self.of_bound[name] = max(self.of_bound.get(name, 0.0), error / bound)


@dataclass(frozen=True, eq=False)
class Run:
    """One case on one backend.

    Attributes:
        own: the subject that is verified.
        subject, case: what is called: `own` with the case's values of what it captures.
        backend: of `attention`, not "auto".
        device: of the tensors.
        allowed: what the mask says of every pair, bool [B, H, Lq, Lkv].
        plan: the checked plan, which the CPU executor is given, so that its tiles are drawn too.
        errors: where the largest errors are noted.
    """

    own: Subject
    subject: Subject
    case: Case
    backend: str
    device: torch.device
    allowed: Tensor
    plan: BlockPlan
    errors: Errors

    @cached_property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v."""
        return self.case.tensors(self.device, exact=self.subject.has_corners)

    @cached_property
    def placed(self) -> Subject:
        """The subject with its captures where the tensors are; itself where they are already."""
        return self.subject.on(self.device)

    def call(
        self, subject: Subject, mask: Any, q: Tensor, k: Tensor, v: Tensor, **how: Any
    ) -> Pair:
        """`fx.attention`; what it raises is a failed check, save that a backend cannot run.

        Raises:
            BackendError: it cannot run here.
            Disagreement: it raises anything else.
        """
        options = {"scale": self.case.scale, "q_offset": self.case.q_offset, **how}
        try:
            return attention(
                q,
                k,
                v,
                mask=mask,
                score=subject.score,
                return_lse=True,
                backend=self.backend,
                **options,
            )
        except BackendError:
            raise
        except Exception as error:
            raise Disagreement(f"attention raises {type(error).__name__}: {error}") from error

    def mask_of(self, subject: Subject) -> Mod | BlockPlan | None:
        """The mask argument: the drawn plan where the backend uses any tile."""
        return self.plan if self.backend == "cpu" else subject.mask

    def compare(
        self,
        name: str,
        found: Tensor,
        expected: Tensor,
        size: float,
        steps: float,
        dtype: torch.dtype,
    ) -> None:
        """Hold `found` against `expected`.

        Args:
            size: of what is rounded on the way.
            steps: roundings of elements of `dtype`.

        Raises:
            Disagreement: they differ by more than rounding, or in what is infinite or NaN.
        """
        found, expected = found.detach(), expected.detach()
        arithmetic = torch.float64 if self.case.dtype == "float64" else torch.float32
        finite = expected.isfinite()
        size = max(1.0, size, float(expected[finite].abs().max()) if finite.any() else 0.0)
        bound = size * (steps * torch.finfo(dtype).eps + 64 * torch.finfo(arithmetic).eps)
        difference = (found.double() - expected.double()).abs().where(finite, 0.0)
        same = (found == expected.to(found.dtype)) | (found.isnan() & expected.isnan())
        wrong = difference.isnan() | (difference > bound) | (~finite & ~same)
        if wrong.any():
            at = tuple(int(i) for i in wrong.nonzero()[0])
            raise Disagreement(
                f"{name}{list(at)} is {found[at].item():.6g}, but should be"
                f" {expected[at].item():.6g} (rounding explains {bound:.1g})"
            )
        self.errors.add(name, float(difference.max()) if difference.numel() else 0.0, bound)


@dataclass(frozen=True, eq=False)
class Expected:
    """What the reference computes.

    Attributes:
        out, lse: in float64.
        inputs: the leaves of autograd, q, k and v, in float64.
        learned: leaves of the captured float tensors, by name, in float64.
        score_size: the largest finite score, before or after its modification.
    """

    out: Tensor
    lse: Tensor
    inputs: Sequence[Tensor]
    learned: Mapping[str, Tensor]
    score_size: float


def reference(run: Run) -> Expected:
    """Dense float64 attention of a run, under autograd.

    Raises:
        Disagreement: the score, called on plain numbers, is not its expression.
    """
    subject, case = run.subject, run.case
    inputs = [x.detach().double().requires_grad_() for x in run.inputs]
    # As of inputs: the gradient by a float32 leaf would be a float32 sum over all pairs.
    captured = subject.learned(run.device)
    learned = {n: x.double().requires_grad_() for n, x in captured.items()}
    sizes = [0.0]

    def modify(scores: Tensor) -> Tensor:
        # Only pairs that count: elsewhere a score may have no value.
        at = run.allowed.nonzero(as_tuple=True)
        raw = scores[at]
        sizes.append(_size(raw))
        if run.placed.score_program is None:
            return scores
        values = run.placed.score_program.values
        tensors = {n: torch.as_tensor(values[n]) for n in subject.captures if n in values}
        values = {**values, **tensors, **learned}
        changed = modified_scores(subject, case, raw, values, at)
        check_score(subject, case, raw, changed, at)
        sizes.append(_size(changed))
        return torch.full_like(scores, -math.inf).index_put(at, changed)

    out, lse = dense_attention(*inputs, allowed=run.allowed, modify=modify, scale=case.factor)
    return Expected(out, lse, inputs, learned, max(sizes))


def check_forward(run: Run, expected: Expected) -> Pair:
    """Output and lse of the backend against the reference; gives them.

    Raises:
        Disagreement: they differ.
    """
    found = run.call(run.placed, run.mask_of(run.placed), *run.inputs)
    compare_outputs(run, "", found, (expected.out, expected.lse), expected.score_size)
    return found


def compare_outputs(run: Run, prefix: str, found: Pair, expected: Pair, score_size: float) -> None:
    """Output and lse against what they should be."""
    of_values = _size(run.inputs[2]) * (1.0 + score_size)
    dtype = DTYPES[run.case.dtype]
    run.compare(f"{prefix}lse", found[1], expected[1], 1.0 + score_size, 0, dtype)
    run.compare(f"{prefix}out", found[0], expected[0], of_values, 4, dtype)


def check_backward(run: Run, expected: Expected) -> None:
    """Gradients by q, k, v and captured floats against the reference's autograd.

    Raises:
        Disagreement: they differ.
    """
    inputs = [x.detach().requires_grad_() for x in run.inputs]
    captured = run.placed.learned(run.device)
    learned = {n: x.requires_grad_() for n, x in captured.items()}
    subject = run.placed.with_values(learned) if learned else run.placed
    found = run.call(subject, run.mask_of(subject), *inputs)
    given = run.case.like(*found)
    given[1] = given[1].masked_fill(expected.lse == -math.inf, 0.0)
    names = ["dq", "dk", "dv", *(f"gradient by {n}" for n in learned)]
    gradients = _gradients(found, [*inputs, *learned.values()], given)
    wanted = [*expected.inputs, *(expected.learned[n] for n in learned)]
    references = _gradients((expected.out, expected.lse), wanted, [g.double() for g in given])
    # What the difference of two products of gradients and values is rounded from.
    size = _size(given[0]) * _size(run.inputs[2]) * math.sqrt(run.case.v_dim) + _size(given[1])
    size *= max(1.0, run.case.factor * max(_size(x) for x in run.inputs[:2]))
    given_to = [*inputs, *learned.values()]
    for name, one, other, x in zip(names, gradients, references, given_to, strict=True):
        dtype = max(x.dtype, DTYPES[run.case.dtype], key=lambda t: torch.finfo(t).eps)
        run.compare(name, one, other, size * (1.0 + expected.score_size), 8, dtype)


def _gradients(outputs: Pair, inputs: Sequence[Tensor], given: Sequence[Tensor]) -> list[Tensor]:
    try:
        found = torch.autograd.grad(outputs, inputs, given, allow_unused=True)
    except BackendError:
        raise
    except Exception as error:
        raise Disagreement(f"the backward raises {type(error).__name__}: {error}") from error
    pairs = zip(found, inputs, strict=True)
    return [torch.zeros_like(x) if g is None else g for g, x in pairs]


def _size(x: Tensor) -> float:
    """The largest finite magnitude; 0 where there is none."""
    x = x.detach()
    x = x[x.isfinite()]
    return float(x.abs().max()) if x.numel() else 0.0
