"""What Hopper kernels have in registers, and how: the decisions, not who acts on them."""

from __future__ import annotations

from flexdsl.ir import Expr, Op, walk

from ..kernel import KernelSpec, pieces
from .row_bits import row_intervals

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
    beside two consumers and a short mask, or bits of the ends of rows. On an H200 (torch
    2.11.0+cu130, triton 3.6.0, 2026-11-26 and 27), D 128, microseconds without and with it: full
    1797 and 1765, causal 939 and 917, grouped heads 904 and 893, softcap 1358 and 1348, sinks 854
    and 842, packed documents 347 and 343, causal ones 307 and 305, a window 267 and 267, at D 64
    180 and 176, block diffusion 949 and 961; ALiBi 1035 and 1052; a product beside (`factors.py`)
    1890 and 1890; with three consumers, D 64, causal 1257 and 1639.
    """
    mask, score = (None if p is None else p.expr for p in (spec.mask, spec.score))
    few = spec.consumers == 2 and not spec.products and max(spec.head_dim, spec.value_dim) <= 128
    if not few or not is_short(None if row_intervals(spec) else mask, score):
        return []
    return [f"query_{i}" for i in range(len(pieces(spec.head_dim)))]


def cuts_in_pairs(spec: KernelSpec) -> bool:
    """Are weights cut to 16 bits by an instruction of two of them, not by one each?

    They are carried from a tile to the next one. Of cuts one by one, ptxas packs pairs as it likes,
    and where that is the wrong way round swaps them in every tile, which is 32 more of some 450
    instructions. On an H200 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26), microseconds one by one
    and in pairs: D 64 with three consumers, causal 1213 and 1156; softcap 1318 and 1282; masks as
    bits, a neighbourhood 403 and 393, dilated 935 and 869, sparse fixed 1994 and 1790. Elsewhere
    its schedules get worse: full 1681 and 1712, causal 890 and 911, ALiBi 960 and 981.
    """
    of_scores = spec.score is not None and spec.score.expr.variables == {"score"}
    return spec.consumers == 3 or spec.mask_bits or of_scores


def takes_early(spec: KernelSpec) -> bool:
    """Has the producer registers to take the next work while it brings a work's last tile?

    Of its 24, bounds by rows and tiles that lie apart take those. Packed documents lose 2 to 4 % by
    that (`works.py`).
    """
    form = spec.closed_form
    return form is None or (not form.by_rows and form.sieved is None)
