"""A call of attention outside of any graph: `attention` and `load` share it.

A call of a kind that was met before is found (`remembered.py`) and runs; any other one is checked
and read first. It imports nothing of torch's compiler, which is slow to import and needs sympy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flexdsl.runtime import bind, operator, operator_direct, remembered, validate
from flexdsl.runtime.bind import Source
from flexdsl.runtime.operator import Pair
from flexdsl.runtime.steps import warn_of_steps


def attend(
    mask: Source, score: Source, scale: Any, q_offset: Any, backend: Any, q: Any, k: Any, v: Any
) -> Pair:
    """Output and lse of a call by an executor.

    Args:
        mask, score: as they are now.
        scale, q_offset, backend, q, k, v: as the user gave them.
    """
    if torch._C._is_any_autocast_enabled():
        q, k, v = autocast(q, k, v)
    place = None
    if not operator_direct.is_watched(q, k, v):
        place = remembered.place_of(mask, score, scale, q_offset, backend, q, k, v)
        known = None if place is None else remembered.find(place)
        if known is not None:
            return operator.differentiable(known, q, k, v, known.captures, known=True)
    call = _checked(mask, score, scale, q_offset, backend, q, k, v)
    if place is not None and call.is_plain:
        remembered.keep(place, call)
    return operator_direct.attention(call, q, k, v)


def autocast(*tensors: Any) -> Any:
    """The tensors in autocast's dtype where it is on, as torch's own attention has them."""
    device = tensors[0].device.type if isinstance(tensors[0], Tensor) else ""
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return [x.to(dtype) if _is_cast(x) else x for x in tensors]


def _is_cast(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.dtype is not torch.float64


def _checked(
    mask: Source, score: Source, scale: Any, q_offset: Any, backend: Any, q: Any, k: Any, v: Any
) -> operator_direct.Direct:
    """The call, its arguments checked."""
    validate.check_tensors(q, k, v)
    factor = validate.check_scale(scale, q.shape[3])
    lengths = bind.lengths_of(q, k, validate.check_q_offset(q_offset))
    backend = validate.check_backend(backend, q)
    reading = bind.read(mask, score, lengths, q.device)
    if reading.score is not None and any(map(requires_gradient, (q, k, v))):
        warn_of_steps(reading.score)
    tile = tile_of(reading)
    return operator_direct.Direct(reading.mask, reading.score, factor, lengths, tile, backend)


def tile_of(reading: bind.Reading) -> tuple[int, int]:
    """Rows and columns of the tiles of the user's plan; zeros where an executor chooses its own."""
    return (0, 0) if reading.plan is None else reading.plan.tile_shape


def requires_gradient(value: Any) -> bool:
    """Is `value` a tensor whose gradient autograd asks for?"""
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()
