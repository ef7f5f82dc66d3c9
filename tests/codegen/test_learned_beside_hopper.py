"""Gradients of captured tensors beside a Hopper GPU's own backward kernel, against float64.

Without a GPU the pass runs as on one: that kernel as text (`text_on_numbers.py`), and those of
captured tensors after it, on the rows and in the memory that it leaves, under the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl.analysis.gradient import Reduction
from flexdsl.codegen import Phase, backward_phases
from flexdsl.ir import Kind
from flexdsl.mod import as_mod
from flexdsl.runtime import bind, launch, triton_backward
from flexdsl.runtime.call import Call, loads_of
from tests.codegen.oracle import error
from tests.codegen.test_learned import CASES, KV, MASKS, B, H, Q
from tests.codegen.test_query_sums import WITHOUT_GPU
from tests.codegen.text_on_numbers import DIMS, OnNumbers, bound_of
from tests.codegen.variants import Variant

ROWS, OTHERS = Phase.BACKWARD_ROWS, (Phase.BACKWARD, Phase.BACKWARD_SUMS)
OF_LEARNED = {
    Reduction.QUERY: Phase.BACKWARD_LEARNED_QUERY,
    Reduction.KEY: Phase.BACKWARD_LEARNED_KEY,
    Reduction.DIAGONAL: Phase.BACKWARD_DIAGONAL,
    Reduction.PAIR: Phase.BACKWARD_LEARNED_QUERY,
}


Score = Callable[[torch.Tensor], Any]
ROWS_AND_KEYS = (300, 340)
BAND = fx.mask_mod(lambda b, h, q, kv: q + 40 >= kv and (q - kv < 200 or kv < 9))


def long(rows: int, keys: int) -> dict[str, tuple[tuple[int, ...], Score, Reduction]]:
    """Scores as in `CASES`, for lengths of several tiles."""
    buckets = abs(np.arange(-keys, rows + 1) // 7)
    size = int(buckets.max()) + 1
    return {
        "heads": ((H,), lambda t: lambda s, b, h, q, kv: s * t[h], Reduction.QUERY),
        "rows": ((H, rows), lambda t: lambda s, b, h, q, kv: s * t[h, q], Reduction.QUERY),
        "keys": ((B, keys), lambda t: lambda s, b, h, q, kv: s + t[b, kv], Reduction.KEY),
        "relative": (
            (H, rows + keys),
            lambda t: lambda s, b, h, q, kv: s + t[h, q - kv + keys],
            Reduction.DIAGONAL,
        ),
        "buckets": (
            (size, H),
            lambda t: lambda s, b, h, q, kv: s + t[buckets[q - kv + keys], h],
            Reduction.DIAGONAL,
        ),
        "pairs": (
            (rows, keys),
            lambda t: lambda s, b, h, q, kv: s + t[q, kv],
            Reduction.PAIR,
        ),
    }


class Told(OnNumbers):
    """Kernels that tell in which order they ran."""

    def run(self, phase: Phase, call: Call) -> None:
        self.phases = [*getattr(self, "phases", []), phase]
        super().run(phase, call)


def expect(
    score: Any,
    learned: list[torch.Tensor],
    mask: Any = None,
    *,
    dims: tuple[int, int] = (96, 96),
    lengths: tuple[int, int] = (Q, KV),
    kv_heads: int = H,
) -> list[Phase]:
    """Hold the gradients against the reference's; the kernels that ran."""
    (q_len, kv_len), (dim, value_dim) = lengths, dims
    generator = torch.Generator().manual_seed(q_len + dim)
    shapes = [(H, q_len, dim), (kv_heads, kv_len, dim), (kv_heads, kv_len, value_dim)]
    shapes += [(H, q_len, value_dim)]
    *inputs, d_out = (torch.randn(B, *s, generator=generator).half() for s in shapes)
    exact = [x.double().requires_grad_() for x in (*inputs, *learned)]
    mods = {"mask": mask, "return_lse": True, "backend": "reference"}
    out, lse = fx.attention(*exact[:3], **mods, score=score(*exact[3:]))
    wanted = torch.autograd.grad(out, exact, d_out.double())
    leaves = [x.detach().clone().requires_grad_() for x in learned]
    given = as_mod(mask, Kind.MASK) if mask is not None else None
    variant = Variant(given, as_mod(score(*leaves), Kind.SCORE))
    bound, kernels = bound_of(variant, inputs, 0), Told(Phase.BACKWARD)
    results = *inputs, out.detach().half(), d_out, lse.detach().float()
    with torch.no_grad():
        found = triton_backward.backward(kernels, bound, dim**-0.5, *results)(*results)
    order = [*range(3), *(3 + _place(leaves, bound.score_values[n]) for n in bound.learned)]
    assert sorted(order) == [*range(3 + len(learned))]
    for at, mine in zip(order, found, strict=True):
        assert mine.shape == wanted[at].shape and error(mine, wanted[at]) < 2e-3, at
    return kernels.phases


def _place(leaves: list[torch.Tensor], value: torch.Tensor) -> int:
    return next(i for i, x in enumerate(leaves) if x.data_ptr() == value.data_ptr())


def table(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@WITHOUT_GPU
@pytest.mark.parametrize("mask", ["causal", "stripes"])
@pytest.mark.parametrize("name", CASES)
def test_against_float64(name: str, mask: str) -> None:
    shape, make, reduction = CASES[name]
    ran = expect(make, [table(*shape)], MASKS[mask])
    assert ran == [ROWS, *OTHERS, OF_LEARNED[reduction]]


@WITHOUT_GPU
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("name", ["head", "key of each head", "buckets"])
def test_head_dimensions(name: str, dims: tuple[int, int]) -> None:
    """At D 64 sums by rows and by keys are left to the kernels that add them up in passing."""
    shape, make, reduction = CASES[name]
    ran = expect(make, [table(*shape)], MASKS["causal"], dims=dims, kv_heads=2)
    assert (Phase.BACKWARD in ran) == (dims != (64, 64) or reduction is Reduction.DIAGONAL)


@WITHOUT_GPU
@pytest.mark.parametrize("mask", [None, BAND], ids=["full", "band"])
@pytest.mark.parametrize("name", long(1, 1))
def test_several_tiles(name: str, mask: Any) -> None:
    shape, make, reduction = long(150, 200)[name]
    ran = expect(make, [table(*shape)], mask, lengths=(150, 200))
    assert ran == [ROWS, *OTHERS, OF_LEARNED[reduction]]


@WITHOUT_GPU
@pytest.mark.parametrize(("enough", "large"), [(1, 0), (999, 2**23)])
@pytest.mark.parametrize("name", ["heads", "keys", "relative"])
def test_heads_in_parts(
    name: str, enough: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured tensors have one launch whatever parts there are, which leave their sums alone."""
    monkeypatch.setattr(triton_backward, "_ENOUGH", enough)
    monkeypatch.setattr(triton_backward, "_LARGE", large)
    shape, make, reduction = long(128, 256)[name]
    for kv_heads in (1, H):
        ran = expect(make, [table(*shape)], lengths=(128, 256), kv_heads=kv_heads)
        assert ran.count(OF_LEARNED[reduction]) == 1 and ran[-1] is OF_LEARNED[reduction]
        assert ran[1:-1] == [*OTHERS] * (len(ran) // 2 - 1)
        assert (len(ran) > 4) == (enough == 1)


@WITHOUT_GPU
def test_two_kinds_of_sums() -> None:
    def score(bias: torch.Tensor, slopes: torch.Tensor) -> Any:
        return lambda s, b, h, q, kv: s * slopes[h] + bias[h, q - kv + KV]

    ran = expect(score, [table(H, Q + KV), table(H)], MASKS["causal"])
    assert ran == [ROWS, *OTHERS, Phase.BACKWARD_LEARNED_QUERY, Phase.BACKWARD_DIAGONAL]


@WITHOUT_GPU
def test_rows_and_keys_are_left_to_the_portable_kernels() -> None:
    def score(of_rows: torch.Tensor, of_keys: torch.Tensor) -> Any:
        return lambda s, b, h, q, kv: s + of_rows[q] * of_keys[kv]

    ran = expect(score, [table(Q), table(KV)], MASKS["causal"])
    assert ran == [ROWS, Phase.BACKWARD_QUERY, Phase.BACKWARD_KEY]


def test_what_the_choice_says() -> None:
    x, y = (t.requires_grad_() for t in (table(Q), table(KV)))
    score = fx.score_mod(lambda s, b, h, q, kv: s + x[q] * y[kv])
    inputs = [torch.zeros(1, H, n, 96).half() for n in (Q, KV, KV)]
    bound = bound_of(Variant(None, score), inputs, 0)
    call = Call(bound, 1.0, dict(zip(("query", "key", "value"), inputs, strict=True)), {})
    reason = str(launch.reason_against_hopper_backward(call))
    assert "the gradient of x would take a kernel by rows, and that of y one by keys" in reason
    assert backward_phases(loads_of(bound), hopper=False) == launch.phases_of(call)


def on_gpu(
    name: str, backend: str, dims: tuple[int, int] = (128, 128), kv_heads: int = H
) -> list[torch.Tensor]:
    """Gradients of q, k, v and of a captured tensor; on a GPU those of a pass that is run again."""
    exact, (rows, keys), (dim, value_dim) = backend == "reference", ROWS_AND_KEYS, dims
    shape, make, _ = long(rows, keys)[name]
    generator = torch.Generator().manual_seed(dim)
    shapes = [(H, rows, dim), (kv_heads, keys, dim), (kv_heads, keys, value_dim)]
    shapes += [(H, rows, value_dim)]
    tensors = [torch.randn(B, *s, generator=generator).half() for s in shapes]
    tensors.append(table(*shape))
    given = [x.double() if exact else x.cuda() for x in tensors]
    q, k, v, learned = leaves = [given[i].requires_grad_() for i in (0, 1, 2, 4)]
    found: tuple[torch.Tensor, ...] = ()
    for _ in range(1 if exact else 3):
        out = fx.attention(q, k, v, mask=BAND, score=make(learned), backend=backend)
        found = torch.autograd.grad(out, leaves, given[3])
    return [x.cpu() for x in found]


@pytest.mark.gpu
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("name", long(1, 1))
def test_on_a_hopper_gpu(name: str, dims: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for kv_heads, enough in ((H, 396), (2, 396), (2, 1)):
        monkeypatch.setattr(triton_backward, "_ENOUGH", enough)
        bind.forget()
        found = on_gpu(name, "hopper", dims, kv_heads)
        wanted = on_gpu(name, "reference", dims, kv_heads)
        for of, x, y in zip(("q", "k", "v", name), found, wanted, strict=True):
            assert error(x, y) < 2e-3, (of, kv_heads, enough)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [n for n in long(1, 1) if n != "pairs"])
def test_all_but_dq_have_the_same_bits_in_every_run(name: str) -> None:
    _, *first = on_gpu(name, "hopper")
    for _ in range(16):
        _, *again = on_gpu(name, "hopper")
        assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


@pytest.mark.gpu
def test_deterministic_algorithms_take_portable_kernels() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        first, again = (on_gpu("relative", "hopper") for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
