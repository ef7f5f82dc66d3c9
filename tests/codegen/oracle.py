"""Generated kernels beside the float64 oracle, and beside dense attention in the same dtype."""

from __future__ import annotations

from typing import Any

import torch

import flexdsl as fx
from flexdsl.mod import Mod
from flexdsl.runtime.evaluate import evaluate
from tests.codegen.variants import HEADS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# bfloat16 is wrong in Triton's interpreter.
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (DEVICE == "cuda")


def expect(
    mask: Mod | None = None,
    score: Mod | None = None,
    *,
    batch: int = 1,
    kv_heads: int = HEADS,
    q_len: int = 70,
    kv_len: int = 90,
    head_dim: int = 32,
    value_dim: int = 32,
    dtype: torch.dtype = torch.float32,
    q_offset: int = 0,
    scale: float | None = None,
    backend: str = "triton",
    on_cpu: Mod | None = None,
) -> None:
    """Compare the kernel with the oracle: its error is at most 1.1 times the eager one.

    Args:
        on_cpu: the mask for the oracle, where what `mask` captures is on a GPU.
    """
    generator = torch.Generator().manual_seed(q_len * kv_len + head_dim)

    def draw(heads: int, length: int, dim: int) -> torch.Tensor:
        values = torch.randn(batch, heads, length, dim, generator=generator)
        return values.to(dtype).to(DEVICE)

    q = draw(HEADS, q_len, head_dim)
    k, v = draw(kv_heads, kv_len, head_dim), draw(kv_heads, kv_len, value_dim)
    options = {"mask": mask, "score": score, "q_offset": q_offset, "scale": scale}
    out, lse = fx.attention(q, k, v, **options, return_lse=True, backend=backend)
    mask = options["mask"] = mask if on_cpu is None else on_cpu
    inputs = [x.cpu().to(torch.float64) for x in (q, k, v)]
    wanted, wanted_lse = fx.attention(*inputs, **options, return_lse=True, backend="reference")
    dead = wanted_lse.isneginf()
    assert out.shape == wanted.shape and torch.equal(lse.cpu().isneginf(), dead)
    assert not out[dead.to(out.device)].any()
    eager_out, eager_lse = eager(q, k, v, wanted_lse, mask, score, q_offset, scale)
    # Below the floor, in units of the dtype of the intermediate sums, errors are chance.
    floor = 1e-3 if dtype != torch.float32 else 5e-7
    assert error(out, wanted) <= 1.1 * error(eager_out, wanted) + floor
    assert error(lse[~dead.to(lse.device)], wanted_lse[~dead]) <= 1.1 * eager_lse + 5e-7


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    wanted = wanted.cpu()
    difference = found.cpu().double() - wanted
    return float(difference.norm() / wanted.norm().clamp_min(1e-30))


def eager(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    wanted_lse: torch.Tensor,
    mask: Mod | None,
    score: Mod | None,
    q_offset: int,
    scale: float | None,
) -> tuple[torch.Tensor, float]:
    """Dense attention in the dtype of q, and the relative error of its float32 logsumexp."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    axes = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    b, h, row, kv = torch.meshgrid(*(torch.arange(n, device=q.device) for n in axes), indexing="ij")
    where = {"b": b, "h": h, "q": row + q_offset, "kv": kv}
    scores = q @ k.transpose(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
    if score is not None:
        scores = evaluate(score.expr, {**where, "score": scores}, tensors(score)).to(q.dtype)
    if mask is not None:
        scores = scores.masked_fill(~evaluate(mask.expr, where, tensors(mask)), -float("inf"))
    out = (scores.softmax(-1).nan_to_num() @ v).to(q.dtype)
    lse = scores.float().logsumexp(-1)
    alive = ~wanted_lse.isneginf()
    return out, error(lse[alive.to(lse.device)], wanted_lse[alive])


def tensors(mod: Mod) -> dict[str, object]:
    """The values of a mod with captures as tensors on the device."""
    values = mod.program.values
    return {
        n: torch.as_tensor(v).to(DEVICE) if hasattr(v, "shape") else v for n, v in values.items()
    }


# Relative errors of the gradients; the eager run in the same dtype has about the same.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def gradients(
    mask: Mod | None,
    score: Mod | None,
    tensors: list[torch.Tensor],
    incoming: list[torch.Tensor],
    backend: str,
    **options: Any,
) -> tuple[torch.Tensor, ...]:
    """Gradients of q, k and v from gradients of the output and of lse."""
    inputs = [x.detach().clone().requires_grad_() for x in tensors]
    out, lse = fx.attention(
        *inputs, mask=mask, score=score, return_lse=True, backend=backend, **options
    )
    # An empty row's lse is -inf whatever its inputs are.
    alive = lse.masked_fill(lse.isneginf(), 0.0)
    # Under a constant score modification the reference's lse depends on no input.
    ends = [(x, g) for x, g in zip((out, alive), incoming, strict=True) if x.requires_grad]
    given = [g.to(x.dtype) for x, g in ends]
    return torch.autograd.grad([x for x, _ in ends], inputs, given, materialize_grads=True)


def expect_gradients(
    mask: Mod | None,
    score: Mod | None = None,
    *,
    batch: int = 1,
    kv_heads: int = HEADS,
    q_len: int = 40,
    kv_len: int = 50,
    head_dim: int = 32,
    value_dim: int = 32,
    dtype: torch.dtype = torch.float32,
    backend: str = "triton",
    on_cpu: Mod | None = None,
    **options: Any,
) -> None:
    """Compare gradients of q, k and v with those of float64 autograd through the reference.

    Args:
        on_cpu: the mask for the reference, where what `mask` captures is on a GPU.
    """
    generator = torch.Generator().manual_seed(q_len + kv_len + head_dim)
    shapes = [(HEADS, q_len, head_dim), (kv_heads, kv_len, head_dim), (kv_heads, kv_len, value_dim)]
    shapes += [(HEADS, q_len, value_dim)]
    q, k, v, d_out = (torch.randn(batch, *s, generator=generator).to(dtype) for s in shapes)
    d_lse = torch.randn(batch, HEADS, q_len, generator=generator)
    arguments = [[q, k, v], [d_out, d_lse]]
    on_device = [[x.to(DEVICE) for x in xs] for xs in arguments]
    exact = [[x.double() for x in xs] for xs in arguments]
    found = gradients(mask, score, *on_device, backend, **options)
    mask = mask if on_cpu is None else on_cpu
    wanted = gradients(mask, score, *exact, "reference", **options)
    for name, a, b in zip("qkv", found, wanted, strict=True):
        assert a.dtype == dtype and error(a, b) <= TOLERANCE[dtype], name
