"""Errors of attention against float64, beside SDPA's: what `verify(..., numerics=True)` reports.

Situations in which attention in short formats goes wrong: large scores, long rows, biases that are
huge or -inf, NaN among the inputs. SDPA is given the mask, and the score modification where that
only adds to the score, as a dense tensor. It measures; bounds are in `execution.py`, save that a
NaN has to stay in its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flexdsl.frontend.functions import where
from flexdsl.ir import Kind
from flexdsl.mod import Mod, from_function
from flexdsl.runtime.attention import attention
from flexdsl.runtime.reference import dense_attention
from flexdsl.testing.backends import Backend
from flexdsl.testing.case import Case
from flexdsl.testing.function import Disagreement, modified_scores, traced_pairs
from flexdsl.testing.limits import Limits
from flexdsl.testing.subject import Subject

Call = Callable[..., Tensor]

LENGTH, LONG = 96, 2048  # rows and keys; keys of long rows
LARGE = 40.0  # factor of queries whose scores are large
HUGE = 3e4  # a bias near the largest float16


@dataclass(frozen=True)
class Accuracy:
    """One situation in one dtype: the largest absolute errors of output and dq, dk, dv.

    Attributes:
        situation: "plain", "large scores", "long rows", "huge biases" or "-inf biases".
        dtype: of q, k and v.
        backend: that computed.
        out, gradients: its errors against float64 attention of the same elements.
        sdpa_out, sdpa_gradients: those of torch's `scaled_dot_product_attention`; None where it
            cannot compute this score modification.
    """

    situation: str
    dtype: str
    backend: str
    out: float
    gradients: float
    sdpa_out: float | None
    sdpa_gradients: float | None

    def __str__(self) -> str:
        def beside(own: float, other: float | None) -> str:
            return f"{own:.1e} (SDPA {'-' if other is None else format(other, '.1e')})"

        out = beside(self.out, self.sdpa_out)
        gradients = beside(self.gradients, self.sdpa_gradients)
        return f"{self.situation:<13} {self.dtype:<9} out {out:<24} gradients {gradients}"


def measure(subject: Subject, backend: Backend, limits: Limits) -> list[Accuracy]:
    """The errors of all situations that captured tensors allow, in every dtype of the backend.

    Raises:
        Disagreement: a NaN in a query or key reaches a row that does not see it.
        BackendError: the backend cannot run here.
    """
    found = []
    subject = subject.on(backend.device)
    for dtype in backend.dtypes:
        for situation, case, modified in _situations(subject, limits, backend):
            case = replace(case, dtype=dtype)
            found.append(_measure(situation, modified, case, backend))
        _check_nan(subject, replace(_case(limits, backend), dtype=dtype), backend)
    return found


def _case(limits: Limits, backend: Backend, keys: int = LENGTH) -> Case:
    rows = min(LENGTH, limits.q_positions)
    dim = max(backend.dims)
    heads = min(2, limits.heads)
    return Case(
        q_len=rows,
        kv_len=min(keys, limits.kv_len),
        heads=heads,
        kv_heads=heads,
        dim=dim,
        v_dim=dim,
        seed=1,
    )


def _situations(
    subject: Subject, limits: Limits, backend: Backend
) -> Iterator[tuple[str, Case, Subject]]:
    plain = _case(limits, backend)
    factor = plain.factor
    yield "plain", plain, subject
    yield "large scores", replace(plain, scale=LARGE * factor), subject
    long = _case(limits, backend, LONG)
    if long.kv_len > plain.kv_len:
        rows = min(long.q_len, 16)
        last = min(long.kv_len, limits.q_positions) - rows
        yield "long rows", replace(long, q_len=rows, q_offset=last), subject
    for name, bias in (("huge biases", -HUGE), ("-inf biases", -math.inf)):
        yield name, plain, _biased(subject, bias)


def _biased(subject: Subject, bias: float) -> Subject:
    """The subject whose score has `bias` added at every third key."""
    score = subject.score

    def biased(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        inner = s if score is None else score(s, b, h, q, kv)
        return where(kv % 3 == 2, inner + bias, inner)

    mod: Mod = from_function(biased, Kind.SCORE, "biased")
    return Subject(mod, subject.mask, mod)


def _measure(situation: str, subject: Subject, case: Case, backend: Backend) -> Accuracy:
    inputs = case.tensors(backend.device)
    allowed = _allowed(subject, case, backend)
    modify = _modification(subject, case)
    given = case.like(inputs[0][..., :1].expand(*inputs[0].shape[:3], case.v_dim))[0]

    def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return dense_attention(q, k, v, allowed=allowed, modify=modify, scale=case.factor)[0]

    wanted = _out_and_gradients(exact, [x.double() for x in inputs], given)
    own = _errors(_attention(subject, case, backend), inputs, given, wanted)
    bias = _added(modify, case, backend)
    if bias is None:
        return Accuracy(situation, case.dtype, backend.name, *own, None, None)
    sdpa = _sdpa(allowed, bias, case)
    return Accuracy(
        situation, case.dtype, backend.name, *own, *_errors(sdpa, inputs, given, wanted)
    )


def _attention(subject: Subject, case: Case, backend: Backend) -> Call:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        options: dict[str, Any] = {"scale": case.scale, "q_offset": case.q_offset}
        options["backend"] = backend.name
        out: Tensor = attention(q, k, v, mask=subject.mask, score=subject.score, **options)
        return out

    return call


def _sdpa(allowed: Tensor, bias: Tensor, case: Case) -> Call:
    """torch's attention with mask and bias in one dense tensor."""
    empty = ~allowed.any(3, keepdim=True)  # rows of NaN in SDPA; here they see all, and give 0
    dense = bias.masked_fill(~(allowed | empty), -math.inf)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found: Tensor = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=dense.to(q.dtype), scale=case.factor
        )
        return found.masked_fill(empty, 0.0)

    return call


def _allowed(subject: Subject, case: Case, backend: Backend) -> Tensor:
    program = subject.mask_program
    if program is None:
        return torch.ones(case.pairs, dtype=torch.bool, device=backend.device)
    return torch.from_numpy(traced_pairs(program, case)).to(backend.device)


def _modification(subject: Subject, case: Case) -> Call | None:
    """The score modification of all scores [B, H, Lq, Lkv] in float64, differentiable."""
    program = subject.score_program
    if program is None:
        return None
    values = {
        n: torch.as_tensor(v) if hasattr(v, "dtype") else v for n, v in program.values.items()
    }

    def modify(scores: Tensor) -> Tensor:
        grids = [torch.arange(n, device=scores.device) for n in scores.shape]
        at = [x.flatten() for x in torch.meshgrid(*grids, indexing="ij")]
        return modified_scores(subject, case, scores.flatten(), values, at).reshape(scores.shape)

    return modify


def _added(modify: Call | None, case: Case, backend: Backend) -> Tensor | None:
    """What the modification adds to each score, float64; None where it does something else."""
    zeros = torch.zeros(case.pairs, dtype=torch.float64, device=backend.device)
    if modify is None:
        return zeros
    low, high = modify(zeros), modify(zeros + 1.0)
    added = (high == low + 1.0) | (low == -math.inf)
    return low if bool(added.all()) else None


def _out_and_gradients(call: Call, inputs: Sequence[Tensor], given: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = call(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, given.to(out.dtype))]


def _errors(
    call: Call, inputs: Sequence[Tensor], given: Tensor, wanted: Sequence[Tensor]
) -> tuple[float, float]:
    """The largest errors of the output, and of dq, dk and dv."""
    found = _out_and_gradients(call, inputs, given)
    pairs = zip(found, wanted, strict=True)
    out, *gradients = (float((x.double() - y).abs().max()) for x, y in pairs)
    return out, max(gradients)


def _check_nan(subject: Subject, case: Case, backend: Backend) -> None:
    """A NaN in a query makes NaN of its row alone, and one in a key of the rows that see it.

    Not one in a value: a masked pair has weight 0 in a matrix product, and 0 * NaN is NaN.
    """
    call, allowed = _attention(subject, case, backend), _allowed(subject, case, backend)
    at = min(3, case.kv_len - 1, case.q_len - 1)
    sees = {"q": torch.zeros_like(allowed[..., 0]), "k": allowed[..., at]}
    sees["q"][:, :, at] = True
    for n, (name, may) in enumerate(sees.items()):
        inputs = list(case.tensors(backend.device))
        inputs[n][:, :, at, 0] = math.nan
        found = call(*inputs).isnan().any(3)
        if bool((found & ~may).any()):
            b, h, row = (int(i) for i in (found & ~may).nonzero()[0])
            raise Disagreement(
                f"a NaN in {name}[:, :, {at}] makes NaN of out[{b}, {h}, {row}], which does not see"
                f" it ({case.dtype}, backend '{backend.name}')"
            )
