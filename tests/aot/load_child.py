"""A process that runs a bundle and can import neither triton nor sympy nor lark; facts as JSON.

Usage: python tests/aot/load_child.py BUNDLE DTYPE CASE ...

A case is a line of `CASES`. The oracle is dense float64 attention, written out here. It needs a
GPU.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

if __name__ == "__main__":
    # To import None is an error, and who only asks whether they exist, as torch does, hears no.
    sys.modules |= dict.fromkeys(("triton", "sympy", "lark"))  # type: ignore[arg-type]

import torch

import flexdsl as fx

Positions = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Shapes of a call of a variant, its values, and what it means."""

    variant: str
    shape: tuple[int, int, int, int, int]  # batch, query heads, key heads, queries, keys
    dim: int
    values: Callable[[], dict[str, Any]]
    mask: Callable[[dict[str, Any], Positions], torch.Tensor]
    q_offset: int = 0
    score: Callable[[dict[str, Any], torch.Tensor, Positions], torch.Tensor] | None = None


def _window(values: dict[str, Any], at: Positions) -> torch.Tensor:
    _, q, kv = at
    return (q >= kv) & (q - kv < values["window"])


def _documents(values: dict[str, Any], at: Positions) -> torch.Tensor:
    _, q, kv = at
    return (values["ids"][q] == values["ids"][kv]) & (q >= kv)


def _causal(values: dict[str, Any], at: Positions) -> torch.Tensor:
    _, q, kv = at
    return q >= kv


def _strided(values: dict[str, Any], at: Positions) -> torch.Tensor:
    _, q, kv = at
    return (q >= kv) & ((q - kv) % 3 == 0)


def _ids() -> dict[str, Any]:
    return {"ids": torch.arange(1000, dtype=torch.int32, device="cuda") // 130}


def _packed() -> dict[str, Any]:
    return {"first": torch.arange(1000, dtype=torch.int32, device="cuda") // 130 * 130}


def _in_packed(values: dict[str, Any], at: Positions) -> torch.Tensor:
    _, q, kv = at
    return (values["first"][q] <= kv) & (q >= kv)


def _slopes() -> dict[str, Any]:
    return {"slopes": torch.linspace(0.5, 0.01, 4, device="cuda").requires_grad_()}


def _alibi(values: dict[str, Any], score: torch.Tensor, at: Positions) -> torch.Tensor:
    h, q, kv = at
    return score + values["slopes"].double()[h] * (kv - q)


def _capped(values: dict[str, Any], score: torch.Tensor, at: Positions) -> torch.Tensor:
    return values["cap"] * torch.tanh(score / values["cap"])


CASES = {
    "window": Case("window", (2, 4, 4, 1000, 1000), 128, lambda: {"window": 200}, _window),
    "short": Case("window", (1, 2, 2, 77, 77), 128, lambda: {"window": 5}, _window),
    "one": Case("window", (1, 2, 1, 1, 640), 128, lambda: {"window": 300}, _window, 639),
    "groups": Case("window", (1, 8, 2, 515, 700), 64, lambda: {"window": 10**6}, _window, 185),
    "documents": Case("documents", (1, 4, 4, 1000, 1000), 128, _ids, _documents),
    "documents 64": Case("documents", (2, 4, 2, 900, 900), 64, _ids, _documents),
    "packed": Case("packed", (1, 4, 4, 1000, 1000), 128, _packed, _in_packed),
    "packed 64": Case("packed", (2, 4, 2, 230, 700), 64, _packed, _in_packed, 460),
    "slopes": Case("slopes", (2, 4, 4, 500, 500), 128, _slopes, _causal, 0, _alibi),
    "capped": Case("capped", (1, 4, 4, 700, 700), 128, lambda: {"cap": 3.0}, _causal, 0, _capped),
    "strided": Case("strided", (1, 2, 2, 640, 640), 128, dict, _strided),
}


def inputs(case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v of a case and the gradient of its output."""
    batch, heads, kv_heads, q_len, kv_len = case.shape
    torch.manual_seed(1)
    sizes = ((heads, q_len), (kv_heads, kv_len), (kv_heads, kv_len), (heads, q_len))
    made = [torch.randn(batch, h, n, case.dim, device="cuda").to(dtype) for h, n in sizes]
    return [x.requires_grad_() for x in made[:3]] + [made[3]]


def oracle(case: Case, values: dict[str, Any], q: Any, k: Any, v: Any) -> torch.Tensor:
    """Dense attention in float64; a row without a key gives 0."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    scores = q.double() @ k.transpose(2, 3) / case.dim**0.5
    h = torch.arange(q.shape[1], device="cuda")[:, None, None]
    row = torch.arange(q.shape[2], device="cuda")[:, None] + case.q_offset
    at = h, row, torch.arange(k.shape[2], device="cuda")[None, :]
    if case.score is not None:
        scores = case.score(values, scores, at)
    scores = scores.masked_fill(~case.mask(values, at), float("-inf"))
    dead = (scores == float("-inf")).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(dead, 0.0), -1).masked_fill(dead, 0.0) @ v


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error, in parts of the largest value."""
    found, expected = found.detach().double(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-9))


def facts(folder: str, dtype: torch.dtype, name: str) -> dict[str, Any]:
    """Errors of a case, and how long loading and its first call took."""
    case = CASES[name]
    values = case.values()
    q, k, v, d_out = inputs(case, dtype)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    attention = fx.load(folder, case.variant)
    loaded = time.perf_counter()
    out = attention(q, k, v, q_offset=case.q_offset, **values)
    torch.cuda.synchronize()
    done = time.perf_counter()
    leaves = [q, k, v, *(x for x in values.values() if getattr(x, "requires_grad", False))]
    # The gradient of a number: for those of a tensor torch itself imports sympy.
    gradients = torch.autograd.grad((out.float() * d_out.float()).sum(), leaves)
    expected = oracle(case, values, q, k, v)
    wanted = torch.autograd.grad((expected * d_out.double()).sum(), leaves)
    return {
        "case": name,
        "load_ms": (loaded - begin) * 1e3,
        "first_call_ms": (done - loaded) * 1e3,
        "out": error(out, expected),
        "gradients": [error(g, w) for g, w in zip(gradients, wanted, strict=True)],
    }


if __name__ == "__main__":
    started = time.perf_counter()
    fx.load  # noqa: B018
    imported = (time.perf_counter() - started) * 1e3
    made = [facts(sys.argv[1], getattr(torch, sys.argv[2]), name) for name in sys.argv[3:]]
    print(json.dumps({"import_ms": imported, "cases": made}))
