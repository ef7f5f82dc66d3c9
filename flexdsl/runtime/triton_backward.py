"""The backward pass by generated kernels: gradients of q, k and v, and of captured tensors.

Gradients of q, k and v are added up in a fixed order, so that two runs give the same bits; so are
those of captured tensors wherever their index allows it (`analysis/gradient.py`). What is kept for
the backward pass is autograd's: see `operator.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from flexdsl.analysis.differences import without_loads
from flexdsl.analysis.gradient import LearnedLoad, Reduction
from flexdsl.codegen import Phase
from flexdsl.codegen.hopper.backward_tiles import tiles_of
from flexdsl.runtime import bind
from flexdsl.runtime.blocks import aligned, aligned_rows
from flexdsl.runtime.call import Call, Slot, loads_of, row_stride, tile_counts
from flexdsl.runtime.evaluate import evaluate
from flexdsl.runtime.passes import COUNTER, Kernels, Made, Pass, Step, prepared
from flexdsl.runtime.tuning import Config, configs, diagonal_config

# Gradients from q, k, v, out, d_out, lse and, where there is one, d_lse.
Backward = Callable[..., Sequence[Tensor]]
_GIVEN: tuple[Slot, ...] = (
    *(("tensors", name) for name in ("query", "key", "value", "out", "d_out")),
    ("rows", "lse"),
)
_D_LSE: Slot = ("rows", "d_lse")
# Of the kernel of a Hopper GPU: programs that take a part of the heads so long that its end does
# not count, three for each of 132 multiprocessors.
_ENOUGH = 396
_LARGE = 2**23  # bytes of dQ: below, one fill for all of the work space is worth its memory


def backward(
    kernels: Kernels,
    bound: bind.Bound,
    scale: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    d_out: Tensor,
    *rows: Tensor,
) -> Backward:
    """The backward pass of calls whose tensors are laid out like these.

    It gives gradients of q, k and v, then of the captured tensors that are learned, or raises
    `BackendError` where no configuration fits the GPU.

    Args:
        kernels: what runs, as in the forward pass.
        q, k, v: of the forward call.
        out: what it gave.
        d_out: gradient by the output.
        rows: lse, which it gave too, and the gradient by it, if there is one.
    """
    learned = [
        Made(("gradients", n), bound.score_values[n].shape, zeroed=True) for n in bound.learned
    ]
    if out.numel() == 0 or k.numel() == 0:
        return lambda *given: [
            *(torch.zeros_like(x) for x in given[:3]),
            *(torch.zeros_like(bound.score_values[n], dtype=torch.float32) for n in bound.learned),
        ]
    given, lse = (q, k, v, out, d_out), rows[0]
    names = ("query", "key", "value", "out", "d_out")
    tensors = dict(zip(names, map(aligned, given), strict=True))
    bound = prepared(bound, scale, out.dtype, kernels, backward=True)
    call = Call(bound, scale, tensors, {"lse": lse}, hopper=kernels.hopper)
    phases = kernels.backward_phases(call)
    prepare = _hopper if Phase.BACKWARD in phases else _portable
    row = (*lse.shape[:2], row_stride(lse.shape[2]))
    work: dict[Slot, tuple[int, ...]] = {("rows", name): row for name in ("delta", "lse_log2")}
    if len(rows) == 1:
        work[_D_LSE] = tuple(lse.shape)
    run = _scattering(prepare(kernels, phases, call, [*learned, *_sums_of(call)], work), call)
    if all(x is y for x, y in zip(tensors.values(), given, strict=True)) and all(
        aligned_rows(x) is x for x in rows
    ):
        return run

    def copying(*given: Tensor) -> Sequence[Tensor]:
        return run(*map(aligned, given[:5]), *map(aligned_rows, given[5:]))

    return copying


def _portable(
    kernels: Kernels,
    phases: tuple[Phase, ...],
    call: Call,
    learned: list[Made],
    work: dict[Slot, tuple[int, ...]],
) -> Backward:
    """Gradients of q, k and v by the portable kernels, which add up most of what is learned.

    Args:
        learned: gradients of captured tensors, and sums that are to be added to them.
    """
    of_inputs = [
        _gradient(name, call.tensors[name].shape, call.tensors[name].dtype)
        for name in ("query", "key", "value")
    ]
    steps = [Step(phase) for phase in phases]
    return _pass(kernels, steps, call, (*of_inputs, *learned), work)


def _sums_of(call: Call) -> list[Made]:
    """What kernels add up of each load of a captured tensor."""
    batch_and_heads, tile = call.tensors["query"].shape[:2], _tile_of_diagonals(call)
    return [
        Made(("sums", str(i)), (*batch_and_heads, *_shape_of_sums(load, call.bound, tile)))
        for i, load in enumerate(loads_of(call.bound))
    ]


def _scattering(run: Backward, call: Call) -> Backward:
    """A pass after which such sums are added to the gradients of captured tensors."""
    bound, loads, tile = call.bound, loads_of(call.bound), _tile_of_diagonals(call)
    results = 3 + len(bound.learned)
    if not loads:
        return run

    def backward(*given: Tensor) -> Sequence[Tensor]:
        made = run(*given)
        gradients = dict(zip(bound.learned, made[3:results], strict=True))
        for load, sums in zip(loads, made[results:], strict=True):
            if load.reduction is not Reduction.PAIR:
                _scatter(load, sums, bound, tile, gradients[load.capture])
        return made[:results]

    return backward


def _hopper(
    kernels: Kernels,
    phases: tuple[Phase, ...],
    call: Call,
    learned: list[Made],
    work: dict[Slot, tuple[int, ...]],
) -> Backward:
    """Gradients of q, k and v by the one kernel of a Hopper GPU; dQ is added up in float32.

    Half of the sums lies in the memory of dQ itself, if that is large and whole tiles: none is cut,
    and none has more columns than dQ. The other half is beside it, for one part of the heads after
    the other, or with a table for all of them. Where heads share keys and have work enough each,
    parts are of one query head for each key head, and add to dK and dV. Else each query head has
    its own, which are added up here. Captured tensors have kernels of their own, which run once,
    after those.
    """
    q, k, v = (call.tensors[name] for name in ("query", "key", "value"))
    tiles = tiles_of(q.shape[3])
    group, kv_tiles = q.shape[1] // k.shape[1], -(-k.shape[2] // tiles.keys)
    members = group if k.shape[0] * k.shape[1] * kv_tiles >= _ENOUGH else 1
    q_tiles = -(-q.shape[2] // tiles.rows)
    within = q_tiles * tiles.left * 2 == q.shape[2] * q.shape[3] and q.nbytes >= _LARGE
    heads = q.shape[1] // members
    made = [_gradient("query", q.shape, q.dtype, zeroed=within)]
    for name, x in (("key", k), ("value", v)):
        made.append(_gradient(name, (q.shape[0], heads, *x.shape[2:]), x.dtype))
    parts = _parts_of_heads(call, q.shape[0] * heads, kv_tiles, members)
    of_part = (len(parts[0]), q_tiles)
    inside: dict[Slot, Slot] = {}
    if within:
        inside[("sums", "left")] = "tensors", "d_query"
    else:
        work[("sums", "left")] = (*of_part, tiles.left)
    work |= {("sums", "right"): (*of_part, tiles.right), COUNTER: (1,)}
    sizes = {"result_heads": heads, "members": members}
    sizes["left_tiles"] = q_tiles * members if within else q_tiles
    steps = _steps_of_heads(phases, parts, sizes, q_tiles * tiles.left * 4)
    run = _pass(kernels, steps, call, (*made, *learned), work, inside)

    def backward(*given: Tensor) -> list[Tensor]:
        of_q, of_k, of_v, *rest = run(*given)
        of_k, of_v = (x.unflatten(1, (-1, group)).sum(2) for x in (of_k, of_v))
        return [of_q, of_k, of_v, *rest]

    return backward if members < group else run


def _steps_of_heads(
    phases: tuple[Phase, ...], parts: list[range], sizes: dict[str, int], bytes_of_head: int
) -> list[Step]:
    """The launches for each part of the heads of dK, and of them for each query head.

    Args:
        bytes_of_head: of the left sums of a query head.
    """
    first, main, last, *of_learned = phases
    steps, members = [Step(first)], sizes["members"]
    for member, part in product(range(members), parts):
        own = sizes | {"first_head": part.start, "part_heads": len(part), "member": member}
        offset = (part.start * members + member) * bytes_of_head
        steps.append(Step(main, part, own, cleared=len(steps) > 1, offset=offset))
        steps.append(Step(last, part, own, offset=offset))
    return [*steps, *map(Step, of_learned)]


def _parts_of_heads(call: Call, heads: int, kv_tiles: int, members: int) -> list[range]:
    """Two halves of the heads of a launch if each has work for long, since its end is lost time.

    More than two query heads for each are parts small enough.
    """
    is_long = members < 3 and heads // 2 * kv_tiles >= _ENOUGH
    half = (heads + 1) // 2 if is_long and not _has_table(call) else heads
    return [range(start, min(start + half, heads)) for start in range(0, heads, half)]


def _has_table(call: Call) -> bool:
    """Is the plan of the kernel a table, of which some works can be much longer than others?

    Of two launches the first one ends with its longest work, and so does the second. On an H200
    (torch 2.11.0+cu130, triton 3.6.0, 2026-11-27), N 16384, 16 heads, D 128, microseconds in two
    launches and in one: BigBird 1157 and 788, a neighbourhood in tiles 640 and 620; closed forms:
    a window 838 and 829, packed causal documents 875 and 879, causal 2492 and 2525.
    """
    config = configs(Phase.BACKWARD, 90, call.tensors["query"].shape[3], 2, hopper=True)[0]
    return call.plan(Phase.BACKWARD, config).closed_form is None


def _gradient(name: str, shape: Sequence[int], dtype: torch.dtype, *, zeroed: bool = False) -> Made:
    return Made(("tensors", f"d_{name}"), shape, dtype, padded=True, zeroed=zeroed)


def _pass(
    kernels: Kernels,
    steps: Sequence[Step],
    call: Call,
    made: Sequence[Made],
    work: Mapping[Slot, tuple[int, ...]],
    inside: Mapping[Slot, Slot] | None = None,
) -> Backward:
    given = _GIVEN if _D_LSE in work else (*_GIVEN, _D_LSE)
    calls = call.bound, call.scale, call.device
    return Pass(kernels, steps, *calls, given, made, work, inside).run


def _tile_of_diagonals(call: Call) -> Config:
    query, value = call.tensors["query"], call.tensors["value"]
    widest = max(query.shape[3], value.shape[3])
    return diagonal_config(widest, query.element_size(), hopper=call.hopper)


def _shape_of_sums(load: LearnedLoad, bound: bind.Bound, tile: Config) -> tuple[int, ...]:
    """What a kernel writes of the sums of a load, for a head: of rows, of keys, of diagonals."""
    lengths = bound.lengths
    match load.reduction:
        case Reduction.QUERY:
            return (lengths.q_len,)
        case Reduction.KEY:
            return (lengths.kv_len,)
        case Reduction.DIAGONAL:
            return (tile_counts(lengths, tile)["diagonals"], 2 * tile.block_n)
        case Reduction.PAIR:
            return (0,)


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
    written = (without_loads(i, bound.tables) for i in load.node.args)
    indices = [evaluate(i, variables, bound.score_values) for i in written]
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
