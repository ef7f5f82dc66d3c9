"""`attention`: the public function. It checks, reads the mods and hands over to the operator.

What it must not do: fall back in silence. An executor that cannot run a call raises.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.errors import ArgumentError
from flexdsl.ir import Kind
from flexdsl.mod import as_mod, from_program
from flexdsl.runtime import bind, bundles, operator_compiled, reference, validate
from flexdsl.runtime.eager import attend, autocast, requires_gradient
from flexdsl.runtime.operator import Pair


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any = None,
    score: Any = None,
    scale: float | None = None,
    q_offset: int = 0,
    return_lse: Literal[False] = False,
    backend: str = "auto",
    bundle: Any = None,
) -> Tensor: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any = None,
    score: Any = None,
    scale: float | None = None,
    q_offset: int = 0,
    return_lse: Literal[True],
    backend: str = "auto",
    bundle: Any = None,
) -> tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any = None,
    score: Any = None,
    scale: float | None = None,
    q_offset: int = 0,
    return_lse: bool = False,
    backend: str = "auto",
    bundle: Any = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(score(scale * q k^T) where mask allows) v, without a matrix of all pairs.

    Autograd reaches q, k, v and float tensors that `score` captures. A row without an allowed key
    has output 0, lse -inf and gradient 0. Under autocast q, k and v are cast as torch's own
    attention casts them.

    torch.compile takes a call into one graph, without a break, where mask and score are made
    outside of the compiled function: mods with captures, or text, or functions without. What a mod
    captures is read as the graph runs: no new graph for another window or other documents.

    Where the mask captures tensors on a GPU its plan is made there, by a kernel, and nothing waits
    for the GPU. An index that is itself read from such a tensor is then held inside the tensor that
    it indexes, and not checked.

    Args:
        q: [B, Hq, Lq, D], float16, bfloat16 or float32 (float64 too on the CPU), any strides.
        k: [B, Hkv, Lkv, D] of the same dtype and device; Hq is a multiple of Hkv, and query head h
            uses key head h // (Hq / Hkv).
        v: [B, Hkv, Lkv, Dv].
        mask: which pairs are allowed: a mask mod, a function (b, h, q, kv) -> bool, text, or a
            `BlockPlan` made for these lengths; None for all.
        score: changes the scaled score: a score mod, a function (score, b, h, q, kv) -> float, or
            text; None for no change.
        scale: factor of the scores; None for 1 / sqrt(D).
        q_offset: position of the first query. Position of row r is q_offset + r; keys count from 0.
        return_lse: also give the natural logarithm of each row's sum of exponentials.
        backend: "auto" (the GPU's fastest kernels that cover the call on its tensors, else "cpu"),
            "triton" (portable kernels), "hopper" (those of NVIDIA's compute capability 9.0), "cpu",
            or "reference": dense float64, slow, asks the user's function about every pair.
        bundle: a bundle's folder, or what `fx.load` gave: its kernels alone, and nothing is
            compiled; only with backend "auto". None for those of FLEXDSL_BUNDLES, if any, or else
            compiled ones.

    Returns:
        Output [B, Hq, Lq, Dv] in q's dtype; with `return_lse` also lse [B, Hq, Lq], float32
        (float64 for float64).

    Raises:
        ArgumentError: a shape, dtype, device or value that does not fit; it says what would.
        KindError, ResultError, BranchError, ...: the mask or score cannot be read.
        CaptureError, IndexRangeError: a captured tensor does not fit the call.
        PlanError: the plan was made for other lengths.
        BackendError: the backend cannot run this call here.
        BundleError: the bundle cannot be opened, or has no kernels of this call.
    """
    backend = _of_bundle(bundle, backend) if bundle is not None else backend
    if torch.compiler.is_dynamo_compiling():
        out, lse = _compiled(mask, score, scale, q_offset, backend, q, k, v)
    elif backend == "reference":
        out, lse = _reference(mask, score, scale, q_offset, q, k, v)
    else:
        of_mask = None if mask is None else bind.source_of(mask, Kind.MASK)
        of_score = None if score is None else bind.source_of(score, Kind.SCORE)
        out, lse = attend(of_mask, of_score, scale, q_offset, backend, q, k, v)
    return (out, lse) if return_lse else out


@operator_compiled.run_aside
def _of_bundle(bundle: Any, backend: str) -> str:
    """The backend of a bundle. A graph has it as a constant."""
    if backend != "auto":
        raise ArgumentError(
            f"backend is {backend!r}, and a bundle is given",
            why="the kernels of a bundle are compiled already",
            fix="bundle=... alone, or backend=... alone",
        )
    return bundles.backend_of(bundle)


def _compiled(
    mask: Any,
    score: Any,
    scale: Any,
    q_offset: Any,
    backend: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Pair:
    """In a graph. The operator's fake kernel checks tensors, whose errors are seen as they are."""
    q, k, v = autocast(q, k, v)
    factor = validate.check_scale(scale, q.shape[3])
    offset = validate.check_q_offset(q_offset)
    backend = validate.check_backend(backend, q)
    return operator_compiled.attention(mask, score, factor, offset, backend, q, k, v)


def _reference(
    mask: Any, score: Any, scale: Any, q_offset: Any, q: Tensor, k: Tensor, v: Tensor
) -> Pair:
    q, k, v = autocast(q, k, v)
    validate.check_tensors(q, k, v)
    factor = validate.check_scale(scale, q.shape[3])
    lengths = bind.lengths_of(q, k, validate.check_q_offset(q_offset))
    sources = bind.source_of(mask, Kind.MASK), bind.source_of(score, Kind.SCORE)
    program = bind.read(*sources, lengths, q.device).score
    modify = None
    if program is not None and any(map(requires_gradient, (q, k, v, *program.values.values()))):
        modify = partial(reference.evaluate_score, program.expr, program.values)
    of_plan = isinstance(mask, BlockPlan)
    allowed = mask if not of_plan else mask.mask and from_program(mask.mask)
    out, lse = reference.reference(
        q,
        k,
        v,
        mask=None if allowed is None else as_mod(allowed, Kind.MASK),
        score=None if score is None else as_mod(score, Kind.SCORE),
        modify=modify,
        scale=factor,
        q_offset=lengths.q_offset,
    )
    return out.to(q.dtype), lse.to(torch.promote_types(q.dtype, torch.float32))
