"""Calls of `attention` that were made before, found again by what they depend on.

What a call depends on: the programs of its mods, with their values; shapes, strides and types of
q, k and v; the numbers that are its arguments; and whether autograd records. Those are a key, of
which a program holds the first ones itself, so that a call that is found needs no check of its
arguments. Strides of a contiguous tensor follow from its shape, or nobody uses them. Elements of
captured tensors are not in the key: a `Direct` sees for itself whether they stay as they were.
Bundles of the environment are looked for when a kind of call is met first.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from flexdsl.analysis import BlockPlan
from flexdsl.ir import Program
from flexdsl.runtime import bind
from flexdsl.runtime.bind import Source
from flexdsl.runtime.blocks import ALIGNMENT
from flexdsl.runtime.operator_direct import Direct

# A memory of calls, and the key of one in it.
Place = tuple[dict[Hashable, Any], tuple[Any, ...]]

# Calls without a mod; and how many calls are remembered there, or for a program.
_BARE: dict[Hashable, Any] = {}
_MOST_CALLS = 64


def place_of(
    mask: Source,
    score: Source,
    scale: Any,
    q_offset: Any,
    backend: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Place | None:
    """Where calls of one kind are remembered: the same for them, and for no others.

    The tensors are plain ones, and nobody watches. Asked at each call: what it does not do is fast.
    """
    if mask is not None:
        mask = _settled(mask, q)
    if score is not None:
        score = _settled(score, q)
    try:
        key = (
            mask,
            score,
            backend,
            scale,
            type(scale),
            q_offset,
            type(q_offset),
            bind.forgotten,
            q.shape,
            k.shape,
            v.shape,
            q.is_contiguous() or q.stride(),
            k.is_contiguous() or k.stride(),
            v.is_contiguous() or v.stride(),
            q.dtype,
            k.dtype,
            v.dtype,
            q.device,
            k.device,
            v.device,
            q.data_ptr() % ALIGNMENT,
            k.data_ptr() % ALIGNMENT,
            v.data_ptr() % ALIGNMENT,
            q.requires_grad or k.requires_grad or v.requires_grad,
            torch.is_grad_enabled(),
        )
    except RuntimeError:  # a tensor without memory or strides, which is refused
        return None
    return _memo_of(mask, score), key


def _settled(source: Program | BlockPlan, q: Tensor) -> Source:
    """The same program for the same elements of arrays that it captures."""
    if not isinstance(source, Program) or bind.kind_of_captures(source) != "arrays":
        return source
    return bind.with_tensors(source, q.device)


def find(place: Place) -> Direct | None:
    """The call of that place, if there was one and no tensor that it captures has changed since."""
    memo, key = place
    try:
        found: Direct | None = memo.get(key)
    except TypeError:  # a number that is none
        return None
    return found if found is not None and found.is_current() else None


def keep(place: Place, call: Direct) -> None:
    """Remember a call."""
    memo, key = place
    if len(memo) >= _MOST_CALLS:
        memo.clear()
    memo[key] = call


def _memo_of(mask: Source, score: Source) -> dict[Hashable, Any]:
    """Where a call is remembered, with its programs and captured tensors: in one of the programs.

    That is one that captures tensors, if there is one: no mod that lives on keeps them.
    """
    if isinstance(mask, BlockPlan):
        mask = mask.mask
    if mask is None or (score is not None and bind.kind_of_captures(mask) == "none"):
        assert not isinstance(score, BlockPlan)
        return _BARE if score is None else score.memo
    return mask.memo
