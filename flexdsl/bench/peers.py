"""Who is measured: flexdsl, and what torch offers for the same workload.

    flexdsl   fx.attention
    flex      FlexAttention, compiled, with its block mask made beforehand
    cudnn     scaled_dot_product_attention (SDPA) by cuDNN
    flash     SDPA by FlashAttention
    sdpa      SDPA by what torch picks; a dense mask or bias where is_causal cannot say it
    eager     the definition in torch operations, where SDPA cannot say the workload

A peer is prepared for a case, then called without arguments. Timing stands in `measure.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import flexdsl as fx
from flexdsl.bench.workloads import Mods, Shape, Workload
from flexdsl.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Case:
    """A workload on a device: its shape, its mods, and its tensors.

    Attributes:
        tensors: q, k, v.
        gradient: of the output.
    """

    workload: Workload
    shape: Shape
    mods: Mods
    tensors: tuple[Tensor, Tensor, Tensor]
    gradient: Tensor

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.tensors[0].device

    @property
    def grouped(self) -> bool:
        """Whether query heads share key heads."""
        return self.shape.heads != self.shape.kv_heads


def make_case(
    workload: Workload,
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    *,
    gradients: bool,
) -> Case:
    """The workload at a shape, with its tensors on a device.

    Args:
        gradients: whether q, k and v require them.
    """
    mods = workload.make(shape, device)
    q, k, v, gradient = shape.tensors(device, dtype)
    for tensor in (q, k, v):
        tensor.requires_grad_(gradients)
    return Case(workload, shape, mods, (q, k, v), gradient)


@dataclass(frozen=True)
class Prepared:
    """A peer that is ready for a case.

    Attributes:
        call: gives the output [batch, heads, queries, dim].
        plan: what is computed anew whenever the mask's values change: the block plan or block
            mask; None where there is none.
    """

    call: Callable[[], Tensor]
    plan: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Peer:
    """A way to compute attention.

    Attributes:
        name: what `--peers` takes.
        devices: the kinds of device on which it is measured unless others are asked for.
        supports: whether it has the features of a workload.
        prepare: makes it ready for a case; what is costly here counts as cold start.
    """

    name: str
    devices: frozenset[str]
    supports: Callable[[Workload], bool]
    prepare: Callable[[Case], Prepared]


def plan_of(mask: fx.Mod | None, shape: Shape) -> fx.BlockPlan:
    """flexdsl's plan of a mask at a shape."""
    sizes = shape.queries, shape.tokens
    heads, offset = shape.heads, shape.q_offset
    plan: fx.BlockPlan = fx.plan(mask, *sizes, batch=shape.batch, heads=heads, q_offset=offset)
    return plan


def _prepare_flexdsl(case: Case) -> Prepared:
    q, k, v = case.tensors
    mods, shape = case.mods, case.shape

    def call() -> Tensor:
        offset = shape.q_offset
        out: Tensor = fx.attention(q, k, v, mask=mods.mask, score=mods.score, q_offset=offset)
        return out

    def plan() -> fx.BlockPlan:
        return plan_of(mods.mask, shape)

    return Prepared(call, plan)


def _prepare_flex(case: Case) -> Prepared:
    import torch._functorch.config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    # The backward pass is measured again and again on one graph, so that it must keep its buffers.
    torch._functorch.config.donated_buffer = False
    compiled = torch.compile(flex_attention, dynamic=False)
    q, k, v = case.tensors
    mods, tokens = case.mods, case.shape.tokens
    compiled_mask: Callable[..., Any] = torch.compile(create_block_mask)

    def plan() -> Any:
        return compiled_mask(mods.flex_mask, None, None, tokens, tokens, device=case.device)

    block_mask = None if mods.flex_mask is None else plan()

    def call() -> Tensor:
        out: Tensor = compiled(
            q, k, v, score_mod=mods.flex_score, block_mask=block_mask, enable_gqa=case.grouped
        )
        return out

    return Prepared(call, None if mods.flex_mask is None else plan)


def _prepare_backend(name: str) -> Callable[[Case], Prepared]:
    def prepare(case: Case) -> Prepared:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        causal = case.workload.sdpa == "causal"

        def call() -> Tensor:
            with sdpa_kernel(getattr(SDPBackend, name)):
                return _sdpa(case, is_causal=causal)

        return Prepared(call)

    return prepare


def _prepare_sdpa(case: Case) -> Prepared:
    way = case.workload.sdpa
    if way in ("full", "causal"):
        return Prepared(lambda: _sdpa(case, is_causal=way == "causal"))
    dense = dense_mask(case) if way == "mask" else dense_bias(case)
    return Prepared(lambda: _sdpa(case, attn_mask=dense))


def _sdpa(case: Case, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(*case.tensors, enable_gqa=case.grouped, **options)


def _prepare_eager(case: Case) -> Prepared:
    q, k, v = case.tensors
    group = case.shape.heads // case.shape.kv_heads
    score = case.mods.flex_score
    mask = None if case.mods.flex_mask is None else dense_mask(case)
    axes = _axes(case)

    def call() -> Tensor:
        keys, values = (x.repeat_interleave(group, dim=1) for x in (k, v))
        scores = q @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5
        scores = scores if score is None else score(scores, *axes)
        scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
        out: Tensor = scores.softmax(-1) @ values
        return out

    return Prepared(call)


def _axes(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """b, h, q, kv as index tensors that broadcast to [1, heads, queries, tokens]."""
    shape = case.shape
    positions = torch.arange(shape.tokens, device=case.device)
    heads = torch.arange(case.shape.heads, device=case.device)
    zero = torch.zeros((), dtype=torch.int64, device=case.device)
    return zero, heads[:, None, None], positions[shape.q_offset :, None], positions


def dense_mask(case: Case) -> Tensor:
    """Which pairs are allowed, bool [queries, tokens], by the form of the mask for tensors.

    The masks of the table depend on neither batch nor head.
    """
    if case.mods.flex_mask is None:
        shape = case.shape.queries, case.shape.tokens
        return torch.ones(shape, dtype=torch.bool, device=case.device)
    b, h, q, kv = _axes(case)
    mask: Tensor = case.mods.flex_mask(b, h[0], q, kv)
    return mask


def dense_bias(case: Case) -> Tensor:
    """What is added to the score of each pair, [1, heads, queries, tokens], -inf at forbidden ones.

    Right for scores that add something to the score and nothing else.
    """
    q = case.tensors[0]
    bias = torch.zeros((), dtype=q.dtype, device=q.device)
    if case.mods.flex_score is not None:
        bias = case.mods.flex_score(bias, *_axes(case))
    return bias.masked_fill(~dense_mask(case), float("-inf")).to(q.dtype)[None]


def _plain(workload: Workload) -> bool:
    return workload.sdpa in ("full", "causal")


PEERS: tuple[Peer, ...] = (
    Peer("flexdsl", frozenset({"cpu", "cuda"}), lambda w: True, _prepare_flexdsl),
    Peer("flex", frozenset({"cuda"}), lambda w: True, _prepare_flex),
    Peer("cudnn", frozenset({"cuda"}), _plain, _prepare_backend("CUDNN_ATTENTION")),
    Peer("flash", frozenset({"cuda"}), _plain, _prepare_backend("FLASH_ATTENTION")),
    Peer("sdpa", frozenset({"cpu"}), lambda w: w.sdpa != "none", _prepare_sdpa),
    Peer("eager", frozenset({"cpu"}), lambda w: w.sdpa == "none", _prepare_eager),
)


def choose(names: Sequence[str] | None, device: torch.device) -> list[Peer]:
    """flexdsl and the peers of these names; None for those of this kind of device.

    Raises:
        ArgumentError: there is no such peer; the message lists those there are.
    """
    if names is None:
        return [p for p in PEERS if device.type in p.devices]
    known = [p.name for p in PEERS]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ArgumentError(
                f"there is no peer '{name}'",
                why=f"known: {', '.join(known)}",
                fix=near[0] if near else "",
            )
    return [p for p in PEERS if p.name in names or p.name == "flexdsl"]
