"""Checks of the arguments of `attention`: shapes, dtypes, devices, numbers, and the backend's name.

One clear `ArgumentError` each, naming the argument, its shape and the fix. Masks, score
modifications and what they capture are checked in `bind.py`.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor

from flexdsl.errors import ArgumentError, BackendError
from flexdsl.runtime.bundles import PREFIX

BACKENDS = ("auto", "triton", "hopper", "cpu", "reference")
_NAMES = ("q", "k", "v")
_HALVES_AND_SINGLE = (torch.float16, torch.bfloat16, torch.float32)


def check_tensors(q: Any, k: Any, v: Any) -> None:
    """Raise `ArgumentError` unless q, k and v fit together.

    q is [B, Hq, Lq, D], k [B, Hkv, Lkv, D], v [B, Hkv, Lkv, Dv]; Hq is a multiple of Hkv.
    """
    tensors = dict(zip(_NAMES, (q, k, v), strict=True))
    for name, tensor in tensors.items():
        _check_kind(name, tensor)
    _check_agreement("dtype", tensors, "q.to(k.dtype), so that all three have one dtype")
    _check_agreement("device", tensors, "x.to(q.device), so that all three are on one device")
    _check_shapes(q, k, v)


def check_scale(scale: Any, head_dim: int) -> float:
    """The factor of the scores: `scale`, or 1 / sqrt(head_dim) where it is None."""
    if scale is None:
        return 1.0 / math.sqrt(head_dim)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ArgumentError(
            f"scale is {_show(scale)}: attention takes a finite number",
            why="it multiplies every score before the softmax",
            fix="scale=None for 1 / sqrt(D); a learned scale goes into q or into a score mod",
        )
    return float(scale)


def check_q_offset(q_offset: Any) -> int:
    """`q_offset` as an integer, at least 0."""
    if isinstance(q_offset, bool) or not isinstance(q_offset, int) or q_offset < 0:
        raise ArgumentError(
            f"q_offset is {_show(q_offset)}: attention takes an integer, at least 0",
            why="it is the position of the first query, the number of keys before it in a cache",
            fix="q_offset=k.shape[2] - q.shape[2] where the queries are the last positions",
        )
    return q_offset


def check_backend(backend: Any, q: Tensor) -> str:
    """The name of the executor for tensors such as `q`: "auto" is one of a GPU's own.

    That of a bundle stays as it is.

    Raises:
        ArgumentError: no such backend, or it does not take the dtype.
        BackendError: it cannot run on q's device.
    """
    if isinstance(backend, str) and backend.startswith(PREFIX):
        return backend
    if backend not in BACKENDS:
        known = ", ".join(f'"{name}"' for name in BACKENDS)
        raise ArgumentError(f"backend is {_show(backend)}: there is no such one", fix=known)
    if backend == "auto" and not q.is_cuda:
        backend = "cpu"
    if q.dtype is torch.float64 and backend not in ("cpu", "reference"):
        raise ArgumentError(
            f"q is float64: backend {backend!r} takes float16, bfloat16 and float32",
            fix="q.float(), k.float(), v.float(); or backend='cpu' on tensors on the CPU",
        )
    if backend == "cpu" and q.device.type != "cpu":
        raise BackendError(
            f"backend 'cpu' cannot run on tensors on {q.device}",
            fix="backend='auto', or move q, k, v and the captured tensors with .cpu()",
        )
    if backend == "hopper" and not q.is_cuda:
        raise BackendError(
            f"backend 'hopper' cannot run on tensors on {q.device}",
            why="its kernels are for NVIDIA GPUs of compute capability 9.0",
            fix="backend='auto'",
        )
    if backend == "triton" and not (q.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        raise BackendError(
            f"backend 'triton' cannot run on tensors on {q.device}",
            why="Triton compiles for GPUs; on the CPU it only interprets, for tests",
            fix="backend='auto', or set TRITON_INTERPRET=1 before Python starts",
        )
    return str(backend)


def _check_kind(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise ArgumentError(
            f"{name} is {_show(tensor)}: attention takes a torch tensor",
            fix=f"torch.as_tensor({name})",
        )
    if tensor.dim() != 4:
        lengths = {2: "[None, None]", 3: "[None]"}
        raise ArgumentError(
            f"{name} has shape {_shape(tensor)}: attention takes four dimensions, [B, H, L, D]",
            fix=f"{name}{lengths.get(tensor.dim(), '.reshape(B, H, L, D)')}",
        )
    if tensor.dtype not in (*_HALVES_AND_SINGLE, torch.float64):
        raise ArgumentError(
            f"{name} is {_dtype(tensor)}: attention takes float16, bfloat16, float32 and float64",
            fix=f"{name}.to(torch.float16)",
        )
    if tensor.layout is not torch.strided:
        raise ArgumentError(
            f"{name} has layout {tensor.layout}: attention takes dense tensors",
            fix=f"{name}.to_dense()",
        )
    if tensor.shape[3] == 0:
        raise ArgumentError(
            f"{name} has shape {_shape(tensor)}: the head dimension is 0",
            fix="at least one element a head",
        )


def _check_agreement(what: str, tensors: dict[str, Tensor], fix: str) -> None:
    found = {name: getattr(tensor, what) for name, tensor in tensors.items()}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{n} is {str(x).removeprefix('torch.')}" for n, x in found.items())
        raise ArgumentError(f"q, k and v differ in {what}: {listed}", fix=fix)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    batch, q_heads, _, q_dim = q.shape
    _, kv_heads, kv_len, k_dim = k.shape
    if not k.shape[0] == v.shape[0] == batch:
        raise ArgumentError(
            f"q, k and v differ in batch, their first dimension: {_shapes(q, k, v)}",
            fix="k.expand(q.shape[0], -1, -1, -1) where one k serves all batches",
        )
    if q_dim != k_dim:
        raise ArgumentError(
            f"q and k differ in head dimension, their last: {_shapes(q, k, v)}",
            why="a score is the dot product of a query and a key",
            fix="[B, H, L, D] with one D for q and k; v may have another",
        )
    if v.shape[1] != kv_heads or v.shape[2] != kv_len:
        raise ArgumentError(
            "k and v differ in heads or length, their second and third dimensions:"
            f" {_shapes(q, k, v)}",
            why="each key has one value",
            fix=_transposed(q, k, v) or "k [B, Hkv, Lkv, D] and v [B, Hkv, Lkv, Dv]",
        )
    if (kv_heads == 0) != (q_heads == 0) or (kv_heads and q_heads % kv_heads):
        raise ArgumentError(
            f"{q_heads} query heads are no multiple of {kv_heads} key heads: {_shapes(q, k, v)}",
            why="each key head serves the same number of query heads, Hq / Hkv",
            fix=_transposed(q, k, v) or "Hq a multiple of Hkv, the second dimensions of q and k",
        )


def _transposed(q: Tensor, k: Tensor, v: Tensor) -> str:
    """The fix where the tensors look like [B, L, H, D], else nothing."""
    heads, kv_heads = q.shape[2], k.shape[2]
    looks_so = v.shape[2] == kv_heads and v.shape[1] == k.shape[1] and kv_heads > 0
    if looks_so and heads % kv_heads == 0 and kv_heads < k.shape[1] and heads <= q.shape[1]:
        return (
            "these look like [B, L, H, D]: attention takes [B, H, L, D];"
            " q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)"
        )
    return ""


def _shapes(q: Tensor, k: Tensor, v: Tensor) -> str:
    return f"q {_shape(q)}, k {_shape(k)}, v {_shape(v)}"


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _show(value: Any) -> str:
    """A value as a message shows it: short, and a tensor by its shape."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {_shape(value)}"
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
