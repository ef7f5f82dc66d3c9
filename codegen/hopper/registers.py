"""What the forward kernel has registers for. The decisions are here; who acts on them, is not."""

from __future__ import annotations

from flexdsl.ir import Expr, Op, walk

from ..kernel import KernelSpec, pieces

_COMPARISONS = (Op.LT, Op.LE, Op.GT, Op.GE)
_FEW = {*_COMPARISONS, Op.ADD, Op.SUB, Op.VAR, Op.CONST, Op.PARAM}


def is_short(mask: Expr | None, score: Expr | None) -> bool:
    """Is there at most one comparison of positions, and no score that knows any?"""
    if score is not None and score.variables != {"score"}:
        return False
    nodes = () if mask is None else tuple(walk(mask))
    return sum(n.op in _COMPARISONS for n in nodes) <= 1 and all(n.op in _FEW for n in nodes)


def held_queries(spec: KernelSpec) -> list[str]:
    """Names of the queries as left operands in registers; none where they stay in shared memory.

    Tensor cores then read a third less of shared memory for the scores. Registers are left for that
    beside two consumers and a short mask. On an H200 (torch 2.11.0+cu130, triton 3.6.0,
    2026-11-26), D 128, microseconds without and with it: full 1797 and 1765, causal 939 and 917,
    grouped heads 904 and 893, softcap 1358 and 1348; ALiBi 1035 and 1052; with three consumers,
    D 64, causal 1257 and 1639.
    """
    mask, score = (None if p is None else p.expr for p in (spec.mask, spec.score))
    few = spec.consumers == 2 and not spec.products and max(spec.head_dim, spec.value_dim) <= 128
    if not few or not is_short(mask, score):
        return []
    return [f"query_{i}" for i in range(len(pieces(spec.head_dim)))]
