"""Which tile, warps and stages a kernel runs with: a table by target, head dimension and dtype.

The first row that fits was measured to be fastest; the rows after it need less shared memory, for
GPUs or mods that have none to spare. Nothing is measured here; what the first row of plain kernels
takes in registers, shared memory and stack is recorded in `flexdsl/aot/resources.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flexdsl.codegen import FACTOR_ROWS, Argument, Language, Phase
from flexdsl.codegen.hopper.backward_tiles import tiles_of
from flexdsl.codegen.hopper.registers import is_short
from flexdsl.ir import Expr, Op, walk


@dataclass(frozen=True, slots=True)
class Config:
    """How a kernel is launched: rows and columns of a tile, warps, and pipeline stages.

    The warps of a Gluon kernel are those of its first partition.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    language: Language = Language.TRITON

    @property
    def tile(self) -> tuple[int, int]:
        """The tile that a plan for this configuration has."""
        return self.block_m, self.block_n

    @property
    def constants(self) -> dict[str, int]:
        """Values of the compile-time arguments that kernels have."""
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "STAGES": self.num_stages}

    @property
    def consumers(self) -> int:
        """Warpgroups of a Hopper kernel that share the queries of a program; 2 for all others."""
        forward = self.language is Language.GLUON and self.block_m > 128
        return self.block_m // 64 if forward else 2

    def rows(self, argument: Argument) -> int:
        """Rows of the block of a descriptor."""
        rows = argument.rows
        return rows if isinstance(rows, int) else self.constants[rows]


def _gluon(block_n: int, stages: int, block_m: int = 128) -> Config:
    return Config(block_m, block_n, 4, stages, Language.GLUON)


# The forward kernel in Gluon, by D. On an H200 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-21),
# causal, N 8192, TFLOP/s beside the portable kernel's: D 64 (128, 3, 192) 440, 424; D 96 (128, 2)
# 512, (128, 3) 472, 381; D 128 (128, 2) 562, (64, 3) 512, 470; D 192, Dv 128 (128, 2) 639,
# (64, 2) 576, 423; D 256 (64, 2) 639, 459.
_FORWARD_GLUON = {
    64: (_gluon(128, 3, 192), _gluon(128, 3)),
    96: (_gluon(128, 2), _gluon(64, 2)),
    128: (_gluon(128, 2), _gluon(64, 3)),
    192: (_gluon(128, 2), _gluon(64, 2)),
    256: (_gluon(64, 2),),
}
# At D 64 three consumers have 160 registers each, too few for a mask or score of some length, and
# tiles of 192 rows. On an H100 (same versions, 2026-11-25), N 8192, microseconds for three and for
# two: full 2144 and 2664, causal 1243 and 1266, prefix-LM 1244 and 1290; a window 519 and 461,
# ALiBi 1817 and 1614, packed documents, which spilled with three, 577 and 394, softcap 2158, 2107.
_FORWARD_GLUON_LONG = _FORWARD_GLUON | {64: (_gluon(128, 3),)}
# For masks of which tiles of 64 keys leave out enough (`narrow_tiles.py`): measured at D 128 alone.
_FORWARD_GLUON_NARROW = {128: _gluon(64, 4)}
# For masks that choose blocks of 64 keys (`narrow_tiles.py`), by D.
_FORWARD_GLUON_BLOCKS = {
    64: _gluon(64, 6),
    128: _gluon(64, 4),
    256: _gluon(64, 2),
}
# The backward kernel in Gluon, by the columns of its tiles (`codegen/hopper/backward_tiles.py`), of
# 128 keys or 64. Factors of a score take shared memory too: two stages are left at D 64.
_BACKWARD_GLUON = {
    64: (_gluon(128, 3), _gluon(128, 2)),
    128: (_gluon(128, 3, 64),),
    192: (_gluon(64, 3, 64),),
    256: (_gluon(64, 2, 64),),
}
# Forward, portable, Hopper and later, 16-bit elements, by the largest head dimension. On an H200
# (torch 2.11.0+cu130, triton 3.6.0, 2026-11-21), causal, N 8192: D 128 (128, 128, 8, 3) 478
# TFLOP/s, (128, 64, 8, 3) 464; D 64 (64, 128, 4, 2) 461, (128, 64, 4, 3) 407.
_FORWARD_HOPPER = {
    64: (Config(64, 128, 4, 2), Config(64, 64, 4, 2)),
    128: (Config(128, 128, 8, 3), Config(128, 64, 8, 3), Config(64, 64, 4, 3)),
    192: (Config(128, 64, 8, 3), Config(128, 64, 8, 2), Config(64, 64, 4, 2)),
    256: (Config(128, 64, 8, 2), Config(64, 64, 4, 2), Config(64, 32, 4, 2)),
}
# With a score modification, D 128: softcap (64, 64, 4, 3) 343 TFLOP/s, (128, 128, 8, 3) 327; ALiBi
# 469 and 462. With a load for each pair, as of a learned bias: (128, 128, 8, 2) 235,
# (64, 64, 4, 3) 180.
_FORWARD_HOPPER_SCORE = {
    128: (Config(64, 64, 4, 3), Config(64, 64, 4, 2)),
    256: (Config(64, 64, 4, 2), Config(64, 32, 4, 2)),
}
_FORWARD_HOPPER_PAIR_LOADS = {
    128: (Config(128, 128, 8, 2), Config(64, 64, 4, 2)),
    256: (Config(128, 64, 8, 2), Config(64, 64, 4, 2), Config(64, 32, 4, 2)),
}
_FORWARD = {
    64: (Config(128, 64, 4, 2), Config(64, 64, 4, 2)),
    128: (Config(128, 64, 8, 2), Config(64, 64, 4, 2), Config(64, 32, 4, 2)),
    256: (Config(64, 64, 4, 2), Config(64, 32, 4, 2), Config(32, 32, 4, 1)),
}
_FORWARD_32_BIT = {
    64: (Config(64, 64, 4, 2), Config(32, 32, 4, 2)),
    128: (Config(64, 32, 4, 2), Config(32, 32, 4, 1)),
    256: (Config(32, 32, 4, 2), Config(32, 32, 4, 1), Config(16, 16, 4, 1)),
}
# Forward of few queries, by parts of the keys; a program's rows are those of its call, 16 to 64.
# It waits for memory: each program has 32 to 64 KiB of keys and values under way. On an H100 (torch
# 2.11.0+cu130, triton 3.6.0, 2026-11-26), D 128, tiles of 32, 64 and 128 keys, of 2 to 4 stages and
# 4 or 8 warps are all within 4 %. Other head dimensions are not measured. With 4 warps, products of
# 32 bits spill registers.
_FORWARD_SPLIT = {
    64: (Config(16, 128, 4, 3), Config(16, 64, 4, 2)),
    128: (Config(16, 64, 4, 3), Config(16, 64, 4, 2), Config(16, 32, 4, 2)),
    256: (Config(16, 32, 4, 3), Config(16, 32, 4, 2), Config(16, 16, 4, 2)),
}
_FORWARD_SPLIT_32_BIT = {
    64: (Config(16, 64, 8, 2), Config(16, 32, 8, 2)),
    128: (Config(16, 32, 8, 2), Config(16, 32, 8, 1)),
    256: (Config(16, 16, 8, 2), Config(16, 16, 8, 1)),
}
# Backward, same GPU, versions and date, causal, N 8192. dQ: D 128 (64, 64, 4, 2) 591 TFLOP/s,
# (128, 64, 8, 3) 580; D 64 (64, 64, 4, 3) 615, (128, 64, 8, 3) 600. Kernels of captured tensors
# alone have these tiles as well, and nothing spills; others were not tried.
_BACKWARD_QUERY = {
    64: (Config(64, 64, 4, 3), Config(64, 64, 4, 2), Config(64, 32, 4, 2)),
    128: (Config(64, 64, 4, 2), Config(64, 32, 4, 2)),
    256: (Config(64, 64, 8, 2), Config(64, 32, 4, 2), Config(32, 32, 4, 2)),
}
# dK and dV: D 128 (64, 64, 4, 2) 463 TFLOP/s, (64, 128, 8, 2) 440; D 64 (128, 64, 4, 2) 535,
# (128, 64, 4, 3) 389, (64, 64, 4, 3) 331. Never (64, 64, 4, 1), though it is 3 % faster: there
# triton 3.6.0 gives a wrong dV for D 96, Dv 48.
_BACKWARD_KEY = {
    64: (Config(128, 64, 4, 2), Config(64, 64, 4, 2), Config(32, 64, 4, 2)),
    128: (Config(64, 64, 4, 2), Config(32, 64, 4, 2)),
    256: (Config(32, 64, 8, 2), Config(32, 32, 4, 2)),
}
_BACKWARD_32_BIT = {
    64: (Config(32, 32, 4, 2), Config(32, 32, 4, 1)),
    128: (Config(32, 32, 4, 1), Config(16, 32, 4, 1)),
    256: (Config(16, 16, 4, 1),),
}
# Kernels without pairs. A program that writes tables has a number for each thread, since one may be
# long to compute; one that merges has a row, and so many splits at a time.
_OF_ROWS = {
    Phase.FORWARD_MERGE: Config(1, 32, 4, 1),
    Phase.BACKWARD_ROWS: Config(32, 32, 4, 1),
    Phase.FACTORS: Config(FACTOR_ROWS, FACTOR_ROWS, 4, 1),
    Phase.DIFFERENCES: Config(128, 128, 4, 1),
}
MAX_HEAD_DIM = 256

# Names of element types as users write them, and their sizes in bytes.
ITEMSIZE = {"fp16": 2, "bf16": 2, "fp32": 4}


def diagonal_config(head_dim: int, itemsize: int, *, hopper: bool) -> Config:
    """The one configuration of the diagonals' kernel, whose sums are laid out by its tile.

    Where a Hopper GPU's own kernels run there is shared memory for 64 rows of 256 columns of all
    four tensors, and fewer rows are no matrix product of that GPU's own.
    """
    wide = itemsize < 4 and (hopper or head_dim <= 128)
    return Config(64, 64, 4, 1) if wide else Config(32, 32, 4, 1)


def configs(
    phase: Phase,
    capability: int,
    head_dim: int,
    itemsize: int,
    mask: Expr | None = None,
    score: Expr | None = None,
    *,
    hopper: bool = False,
) -> tuple[Config, ...]:
    """The configurations to try for a kernel, fastest first.

    Args:
        mask, score: the mask and the score modification, None where there is none.
        hopper: the call is one of a Hopper GPU's own kernels: those in Gluon are to be tried first,
            if the phase has one.
        capability: of an NVIDIA GPU, 90 for Hopper; 0 for any other GPU.
        head_dim: the larger of D and Dv, at most MAX_HEAD_DIM.
        itemsize: bytes of an element of q.
    """
    portable = _portable(phase, capability, head_dim, itemsize, score, hopper)
    if hopper and phase is Phase.FORWARD:
        table = _FORWARD_GLUON if score is None and is_short(mask, None) else _FORWARD_GLUON_LONG
        return _of_dim(table, head_dim) + portable
    return portable


def narrow_config(head_dim: int) -> Config | None:
    """The forward kernel in Gluon with tiles of 64 keys, where they were measured to pay."""
    return _FORWARD_GLUON_NARROW.get(head_dim)


def blocks_config(head_dim: int) -> Config:
    """The forward kernel in Gluon for masks that choose blocks of 64 keys."""
    return next(c for limit, c in _FORWARD_GLUON_BLOCKS.items() if head_dim <= limit)


def _portable(
    phase: Phase, capability: int, head_dim: int, itemsize: int, score: Expr | None, hopper: bool
) -> tuple[Config, ...]:
    match phase:
        case Phase.FORWARD if itemsize >= 4:
            table = _FORWARD_32_BIT
        case Phase.FORWARD:
            table = _forward_hopper(score) if capability >= 90 else _FORWARD
        case Phase.FORWARD_SPLIT:
            table = _FORWARD_SPLIT_32_BIT if itemsize >= 4 else _FORWARD_SPLIT
        case Phase.FORWARD_MERGE | Phase.BACKWARD_ROWS | Phase.FACTORS | Phase.DIFFERENCES:
            return (_OF_ROWS[phase],)
        case Phase.BACKWARD:
            return _of_dim(_BACKWARD_GLUON, head_dim)
        case Phase.BACKWARD_SUMS:
            return (Config(tiles_of(head_dim).rows, 64, 4, 1),)
        case Phase.PLAN_REFINE:
            return (Config(128, 128, 1, 1),)  # the tile is the plan's
        case (
            Phase.PLAN_STATES
            | Phase.PLAN_COUNTS
            | Phase.PLAN_RUNS
            | Phase.MASK_BITS
            | Phase.MASK_BITS_KEY
        ):
            return (Config(128, 128, 4, 1),)  # the tile is the plan's
        case Phase.BACKWARD_DIAGONAL:
            return (diagonal_config(head_dim, itemsize, hopper=hopper),)
        case (
            Phase.BACKWARD_QUERY
            | Phase.BACKWARD_KEY
            | Phase.BACKWARD_LEARNED_QUERY
            | Phase.BACKWARD_LEARNED_KEY
        ) if itemsize >= 4:
            table = _BACKWARD_32_BIT
        case Phase.BACKWARD_QUERY | Phase.BACKWARD_LEARNED_QUERY | Phase.BACKWARD_LEARNED_KEY:
            table = _BACKWARD_QUERY
        case Phase.BACKWARD_KEY:
            table = _BACKWARD_KEY
    return _of_dim(table, head_dim)


def _of_dim(table: Mapping[int, tuple[Config, ...]], head_dim: int) -> tuple[Config, ...]:
    """The row of the smallest limit that is not below `head_dim`."""
    return next(found for limit, found in table.items() if head_dim <= limit)


def _forward_hopper(score: Expr | None) -> dict[int, tuple[Config, ...]]:
    if score is None:
        return _FORWARD_HOPPER
    loads = (n for n in walk(score) if n.op is Op.LOAD)
    by_pair = any(n.variables >= {"q", "kv"} for n in loads)
    return _FORWARD_HOPPER_PAIR_LOADS if by_pair else _FORWARD_HOPPER_SCORE
