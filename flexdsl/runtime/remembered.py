"""Calls of `attention` that were made before, found again by what they depend on.

What a call depends on: the programs of its mods, with their values; shapes, strides and types of
q, k and v; the numbers that are its arguments; and whether autograd records. Those are a key, of
which a program holds the first ones itself, so that a call that is found needs no check of its
arguments. Elements of captured tensors are not in it: a `Direct` sees for itself whether they stay
as they were. Bundles of the environment are looked for when a kind of call is met first.
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

Key = tuple[Any, ...]

# Calls without a mod; and how many calls are remembered there, or for a program.
_BARE: dict[Hashable, Direct] = {}
_MOST_CALLS = 64


def key_of(
    mask: Source,
    score: Source,
    scale: Any,
    q_offset: Any,
    backend: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Key | None:
    """Equal for calls of one kind. The tensors are plain ones, and nobody watches."""
    mask, score = _settled(mask, q.device), _settled(score, q.device)
    try:
        return (
            (mask, score, backend, scale, type(scale), q_offset, type(q_offset), bind.forgotten),
            (q.shape, k.shape, v.shape),
            (q.stride(), k.stride(), v.stride()),
            (q.dtype, k.dtype, v.dtype, q.device, k.device, v.device),
            (q.data_ptr() % ALIGNMENT, k.data_ptr() % ALIGNMENT, v.data_ptr() % ALIGNMENT),
            (q.requires_grad or k.requires_grad or v.requires_grad, torch.is_grad_enabled()),
        )
    except RuntimeError:  # a tensor without memory or strides, which is refused
        return None


def _settled(source: Source, device: torch.device) -> Source:
    """The same program for the same elements of arrays that it captures."""
    if not isinstance(source, Program) or bind.kind_of_captures(source) != "arrays":
        return source
    return bind.with_tensors(source, device)


def find(key: Key) -> Direct | None:
    """The call of that key, if there was one and no tensor that it captures has changed since."""
    try:
        found = _memo_of(key).get(key)
    except TypeError:  # a number that is none
        return None
    return found if found is not None and found.is_current() else None


def keep(key: Key, call: Direct) -> None:
    """Remember a call."""
    memo = _memo_of(key)
    if len(memo) >= _MOST_CALLS:
        memo.clear()
    memo[key] = call


def _memo_of(key: Key) -> dict[Hashable, Any]:
    """Where a call is remembered, with its programs and captured tensors: in one of the programs.

    That is one that captures tensors, if there is one: no mod that lives on keeps them.
    """
    mask, score, *_ = key[0]
    if isinstance(mask, BlockPlan):
        mask = mask.mask
    if mask is None or (score is not None and bind.kind_of_captures(mask) == "none"):
        mask = score
    return _BARE if mask is None else mask.memo
