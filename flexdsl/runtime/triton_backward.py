"""The backward pass by generated kernels: gradients of q, k and v, and of captured tensors.

Gradients of q, k and v are added up in a fixed order, so that two runs give the same bits; so are
those of captured tensors wherever their index allows it (`analysis/gradient.py`). What is kept for
the backward pass is autograd's: see `operator.py`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from flexdsl.analysis.gradient import LearnedLoad, Reduction
from flexdsl.codegen import Phase
from flexdsl.runtime import bind
from flexdsl.runtime.blocks import aligned, empty_aligned
from flexdsl.runtime.call import Call, Kernels, loads_of, row_stride, tile_counts
from flexdsl.runtime.evaluate import evaluate
from flexdsl.runtime.tuning import Config, diagonal_config


def backward(
    kernels: Kernels,
    bound: bind.Bound,
    scale: float,
    inputs: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    lse: Tensor,
    d_out: Tensor,
    d_lse: Tensor | None,
) -> list[Tensor]:
    """Gradients of q, k and v, then of the captured tensors that are learned.

    Args:
        kernels: what runs, as in the forward pass.
        inputs: q, k and v of the forward call.
        out, lse: what it gave.
        d_out: gradient by the output.
        d_lse: gradient by lse, or None.

    Raises:
        BackendError: no configuration fits the GPU.
    """
    learned = {
        n: torch.zeros_like(bound.score_values[n], dtype=torch.float32) for n in bound.learned
    }
    q, k, v = inputs
    if out.numel() == 0 or k.numel() == 0:
        return [*(torch.zeros_like(x) for x in inputs), *learned.values()]
    d_lse = torch.zeros_like(lse) if d_lse is None else d_lse.contiguous()
    rows = {"lse": lse, "d_lse": d_lse}
    padded = (*lse.shape[:2], row_stride(lse.shape[2]))
    rows |= {name: lse.new_empty(padded) for name in ("delta", "lse_log2")}
    given = map(aligned, (q, k, v, out, d_out))
    tensors = dict(zip(("query", "key", "value", "out", "d_out"), given, strict=True))
    call = Call(bound, scale, tensors, rows, gradients=learned, hopper=kernels.hopper)
    phases = kernels.backward_phases(call)
    run_all = _hopper if Phase.BACKWARD in phases else _portable
    return [*run_all(kernels, phases, call), *learned.values()]


def _portable(kernels: Kernels, phases: tuple[Phase, ...], call: Call) -> list[Tensor]:
    """Gradients of q, k and v; those of captured tensors are added to the call's own."""
    tensors, bound = call.tensors, call.bound
    of = {f"d_{n}": empty_aligned(tensors[n].shape, tensors[n]) for n in ("query", "key", "value")}
    loads = loads_of(bound)
    query, value = tensors["query"], tensors["value"]
    tile = diagonal_config(max(query.shape[3], value.shape[3]), query.element_size())
    sums = {str(i): _buffer(x, bound, tile, call.rows["lse"]) for i, x in enumerate(loads)}
    call = replace(call, tensors={**tensors, **of}, sums=sums)
    for phase in phases:
        kernels.run(phase, call)
    for number, load in enumerate(loads):
        if load.reduction is not Reduction.PAIR:
            _scatter(load, sums[str(number)], bound, tile, call.gradients[load.capture])
    return list(of.values())


def _hopper(kernels: Kernels, phases: tuple[Phase, ...], call: Call) -> list[Tensor]:
    """Gradients of q, k and v by the one kernel of a Hopper GPU; dQ is added up in float32.

    It gives dK and dV of each query head, which are added up here where heads share keys.
    """
    q, k, v = (call.tensors[name] for name in ("query", "key", "value"))
    of = {"d_query": empty_aligned(q.shape, q)}
    of |= {
        n: empty_aligned((*q.shape[:2], *x.shape[2:]), x) for n, x in (("d_key", k), ("d_value", v))
    }
    rows = -(-q.shape[2] // 128) * 128
    query_sums = q.new_zeros((*q.shape[:2], rows, q.shape[3]), dtype=torch.float32)
    call = replace(call, tensors={**call.tensors, **of}, sums={"d_query": query_sums})
    for phase in phases:
        kernels.run(phase, call)
    group = q.shape[1] // k.shape[1]
    of_keys = (of["d_key"], of["d_value"])
    if group > 1:
        of_keys = tuple(x.unflatten(1, (-1, group)).sum(2) for x in of_keys)
    return [of["d_query"], *of_keys]


def _buffer(load: LearnedLoad, bound: bind.Bound, tile: Config, lse: Tensor) -> Tensor:
    """Where a kernel writes the sums of a load, [B, Hq, ...]: of rows, of keys, of diagonals."""
    lengths = bound.lengths
    shape: tuple[int, ...]
    match load.reduction:
        case Reduction.QUERY:
            shape = (lengths.q_len,)
        case Reduction.KEY:
            shape = (lengths.kv_len,)
        case Reduction.DIAGONAL:
            shape = (tile_counts(lengths, tile)["diagonals"], 2 * tile.block_n)
        case Reduction.PAIR:
            shape = (0,)
    return lse.new_empty((*lse.shape[:2], *shape))


def _scatter(
    load: LearnedLoad, sums: Tensor, bound: bind.Bound, tile: Config, gradient: Tensor
) -> None:
    """Add sums of rows, keys or diagonals to the elements that they loaded.

    `index_put_` with accumulate sorts by index on a GPU: its order is fixed too.
    """
    if not load.node.args:
        gradient += sums.sum()
        return
    used = load.node.variables
    for axis, name in ((1, "h"), (0, "b")):
        sums = sums if name in used else sums.sum(axis, keepdim=True)
    if not used & {"q", "kv"}:
        sums = sums.flatten(2).sum(-1, keepdim=True)
    variables = _positions(load, sums, bound, tile)
    indices = [evaluate(i, variables, bound.score_values) for i in load.node.args]
    inside = [
        i.clamp(0, n - 1).expand(sums.shape) for i, n in zip(indices, gradient.shape, strict=True)
    ]
    gradient.index_put_(tuple(inside), sums, accumulate=True)


def _positions(
    load: LearnedLoad, sums: Tensor, bound: bind.Bound, tile: Config
) -> dict[str, Tensor]:
    """b, h, q and kv of the pairs behind each sum; of a diagonal, one pair that stands for all."""
    device, lengths = sums.device, bound.lengths
    b, h, *inner = (torch.arange(n, device=device) for n in sums.shape)
    b, h = b.reshape(-1, *[1] * (sums.ndim - 1)), h.reshape(-1, *[1] * (sums.ndim - 2))
    if load.reduction is not Reduction.DIAGONAL:
        (position,) = inner
        return {"b": b, "h": h, "q": position + lengths.q_offset, "kv": position}
    diagonal, place = inner
    block, tiles = tile.block_n, tile_counts(lengths, tile)["q_tiles"]
    difference = (diagonal[:, None] - tiles + 1) * block + place - (block - 1)
    row = (-difference).clamp_min(0)
    return {"b": b, "h": h, "q": row + lengths.q_offset, "kv": row + difference}
