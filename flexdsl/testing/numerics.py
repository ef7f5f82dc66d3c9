"""Errors of attention against float64, beside SDPA's: what `verify(..., numerics=True)` reports.

Situations in which attention in short formats goes wrong: large scores, long rows, biases that are
huge or -inf, NaN among the inputs. SDPA is given the mask, and the score modification where that
only adds to the score, as a dense tensor. It measures; bounds are in `execution.py`, save that a
NaN has to stay in its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexdsl.errors import BackendError
from flexdsl.frontend.functions import where
from flexdsl.ir import Kind
from flexdsl.mod import Mod, from_function
from flexdsl.runtime.attention import attention
from flexdsl.runtime.reference import dense_attention
from flexdsl.testing.backends import Backend
from flexdsl.testing.case import DTYPES, Case
from flexdsl.testing.function import Disagreement, modified_scores, traced_pairs
from flexdsl.testing.limits import Limits
from flexdsl.testing.subject import Subject

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
        Disagreement: a NaN in a query, key or value reaches a row that does not see it.
        BackendError: the backend cannot run here.
    """
    found = []
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
    sizes = {"q_len": rows, "kv_len": min(keys, limits.kv_len), "heads": heads}
    return Case(**sizes, kv_heads=heads, dim=dim, v_dim=dim, seed=1)


def _situations(
    subject: Subject, limits: Limits, backend: Backend
) -> Iterator[tuple[str, Case, Subject]]:
    plain = _case(limits, backend)
    factor = plain.factor
    yield "plain", plain, subject
    yield "large scores", replace(plain, scale=LARGE * factor), subject
    long = _case(limits, backend, LONG)
    if long.kv_len > plain.kv_len:
        yield "long rows", replace(long, q_len=min(long.q_len, 16)), subject
    for name, bias in (("huge biases", -HUGE), ("-inf biases", -math.inf)):
        yield name, plain, _biased(subject, bias)


def _biased(subject: Subject, bias: float) -> Subject:
    """The subject whose score is `bias` lower, or -inf, at every third key but the first two."""
    score = subject.score

    def biased(s, b, h, q, kv):  # type: ignore[no-untyped-def]
        inner = s if score is None else score(s, b, h, q, kv)
        return where(kv % 3 == 2, inner + bias if math.isfinite(bias) else bias, inner)

    mod: Mod = from_function(biased, Kind.SCORE, "biased")
    return Subject(mod, subject.mask, mod)


def _measure(situation: str, subject: Subject, case: Case, backend: Backend) -> Accuracy:
    inputs = case.tensors(backend.device)
    wanted, allowed, bias = _exact(subject, case, inputs)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = attention(
            q,
            k,
            v,
            mask=subject.mask,
            score=subject.score,
            scale=case.scale,
            backend=backend.name,
        )
        return out

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Rows without a key would be NaN: they see their own scores, and are not compared.
        empty = ~allowed.any(3, keepdim=True)
        added = torch.zeros_like(bias) if bias is None else bias
        dense = added.masked_fill(~(allowed | empty), -math.inf).to(q.dtype)
        found: Tensor = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=dense, scale=case.factor
        )
        return found.masked_fill(empty, 0.0)

    own = _errors(ours, inputs, wanted, case)
    other = None if bias is None else _errors(sdpa, inputs, wanted, case)
    return Accuracy(situation, case.dtype, backend.name, *own, *(other or (None, None)))
