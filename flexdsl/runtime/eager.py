"""From a call that was read to the operator, outside of any graph: `attention` and `load` share it.

It imports nothing of torch's compiler, which is slow to import and needs sympy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flexdsl.runtime import bind, operator_direct
from flexdsl.runtime.operator import Pair
from flexdsl.runtime.slabs import TILE
from flexdsl.runtime.steps import warn_of_steps


def autocast(*tensors: Any) -> Any:
    """The tensors in autocast's dtype where it is on, as torch's own attention has them."""
    device = tensors[0].device.type if isinstance(tensors[0], Tensor) else ""
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return [x.to(dtype) if _is_cast(x) else x for x in tensors]


def _is_cast(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.dtype is not torch.float64


def operate(
    backend: str,
    reading: bind.Reading,
    scale: float,
    q_offset: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Pair:
    """Output and lse of a call that was read, by an executor."""
    mask, score = reading.mask, reading.score
    if score is not None and any(map(requires_gradient, (q, k, v))):
        warn_of_steps(score)
    tile = tile_of(backend, reading)
    call = operator_direct.Direct(mask, score, scale, q_offset, tile, backend)
    return operator_direct.attention(call, q, k, v)


def tile_of(backend: str, reading: bind.Reading) -> tuple[int, int]:
    """Rows and columns of the tiles of the plan; zeros where each kernel chooses its own."""
    if reading.plan is not None:
        return reading.plan.tile_shape
    return TILE if backend == "cpu" else (0, 0)


def requires_gradient(value: Any) -> bool:
    """Is `value` a tensor whose gradient autograd asks for?"""
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()
