"""Every variant forward and backward against the oracle: CPU executor, and generated kernels.

Without a GPU the kernels run under Triton's interpreter.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flexdsl as fx
from flexdsl import stdlib
from tests.stdlib.samples import BATCH, HEADS, MASKS, SAMPLES

DIM = 16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tensors(q_len: int, kv_len: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(q_len)
    shapes = [(BATCH, HEADS, q_len, DIM), *[(BATCH, HEADS // 2, kv_len, DIM)] * 2]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def results(name: str, backend: str) -> list[torch.Tensor]:
    """Output, lse and gradients of one call, in float64. Kernels compute in float32."""
    sample = SAMPLES[name]
    where = (DEVICE, torch.float32) if backend == "triton" else ("cpu", torch.float64)
    learned = [x.to(*where).requires_grad_() for x in sample.tensors()]
    inputs = [x.to(*where).requires_grad_() for x in tensors(sample.q_len, sample.kv_len)]
    mod = sample.make(*learned)
    call = {"mask": mod} if name in MASKS else {"score": mod, "mask": stdlib.causal()}
    out, lse = fx.attention(*inputs, **call, return_lse=True, backend=backend)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape)
    (out.double() * weights.to(out.device)).sum().backward()
    found = (out, lse, *(t.grad for t in (*inputs, *learned)))
    return [x.detach().cpu().double() for x in found]


@pytest.fixture(scope="module")
def oracle():
    """The results of the reference, computed once for each variant."""
    known: dict[str, list[torch.Tensor]] = {}

    def of(name: str) -> list[torch.Tensor]:
        if name not in known:
            known[name] = results(name, "reference")
        return known[name]

    return of


def test_every_mask_and_score_has_a_sample():
    names = {e.name for e in stdlib.catalog() if e.kind in ("mask", "score")}
    assert names == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_cpu(name, oracle):
    for found, expected in zip(results(name, "cpu"), oracle(name), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", SAMPLES)
def test_kernels(name, oracle):
    for found, expected in zip(results(name, "triton"), oracle(name), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_oracle_is_the_function_itself(name, oracle):
    """The reference reads the traced expression for gradients: here the function is asked."""
    sample = SAMPLES[name]
    mod = sample.make(*sample.tensors())
    q, k, _ = tensors(sample.q_len, sample.kv_len)
    scores = (q @ k.repeat_interleave(2, 1).transpose(2, 3) / DIM**0.5).numpy()
    rows = [0, 1, sample.q_len // 2, sample.q_len - 1]
    lse = oracle(name)[1]
    for b, h, row in ((b, h, row) for b in range(BATCH) for h in (0, HEADS - 1) for row in rows):
        seen = [kv for kv in range(sample.kv_len) if name not in MASKS or mod(b, h, row, kv)]
        if name not in MASKS:
            seen = seen[: row + 1]
            values = [mod(float(scores[b, h, row, kv]), b, h, row, kv) for kv in seen]
        else:
            values = scores[b, h, row, seen]
        found = np.logaddexp.reduce([float(v) for v in values], initial=-np.inf)
        # Slopes are float32, in which a function of numpy's scalars computes.
        assert lse[b, h, row].item() == pytest.approx(found, rel=1e-6)
