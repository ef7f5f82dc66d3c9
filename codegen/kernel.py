"""What code generation is asked for, and what it gives: a spec, and a kernel with its arguments.

Both are plain data: the runtime and the ahead-of-time builder read the arguments of a kernel from
here and never guess them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from flexdsl.analysis.closed_form import ClosedForm
from flexdsl.analysis.differences import DifferenceTable
from flexdsl.analysis.products import Product
from flexdsl.ir import Capture, Expr, Op, Program

# How the line of a module begins that says where a mod comes from.
SOURCE_NOTE = "    source: "


class Language(Enum):
    """What a kernel is written in: portable Triton, or Gluon for one kind of GPU."""

    TRITON = "triton"
    GLUON = "gluon"


class Role(Enum):
    """What the caller passes for an argument; `name` and `index` of the argument say which."""

    DESCRIPTOR = (
        "descriptor of a tensor [B, H, L, D]; blocks of `rows` by `index` elements of a head"
    )
    ROWS = "pointer to one float32 number a query row, [B, Hq, Lq] or [B, Hq, row_stride]"
    ROWS_DESCRIPTOR = "descriptor of such numbers, flat; blocks of `rows` of them"
    SCALE = "float32 scale of the scores"
    SIZE = "int32: a length or a count, by name"
    PARAMETER = "the value of a parameter, int32, int64 or float32"
    CAPTURE = "pointer to a captured tensor"
    LENGTH = "int32 length of a captured tensor along dimension `index`"
    STRIDE = "int32 or int64 stride of a captured tensor along dimension `index`, in elements"
    TENSOR = "pointer to the elements of a tensor [B, H, L, D]"
    TENSOR_STRIDE = "int32 or int64 stride of that tensor along dimension `index`, in elements"
    PARTS = "pointer to float32 results by splits: [splits, B, Hq, Lq, Dv], or [splits, B, Hq, Lq]"
    SUMS = "pointer to float32 sums: of learned load `of` by rows, keys, diagonals; of half of dQ"
    GRADIENT = "pointer to the float32 gradient of a captured tensor"
    GRADIENT_STRIDE = "int32 or int64 stride of that gradient along dimension `index`, in elements"
    TABLE = (
        "pointer to an int32 array of the plan's run table: offsets, full_ends, starts, stops,"
        " order; first_bits where there are bits of masked tiles, kinds where consumers skip tiles"
    )
    STATES = "pointer to one int8 state a tile: 0 empty, 1 partial, 2 full"
    COUNTS = (
        "pointer to one int32 number a row of the run table: tiles, runs, full_runs, merged_from"
    )
    ELEMENTS = "pointer to the elements of a captured tensor: contiguous, signed or float32"
    EXTREMES = "pointer to the extremes of a captured tensor (`extremes.py`), of the same type"
    MEMBERS = "pointer to the sets of elements of a captured tensor (`members.py`), int64"
    COUNTER = "pointer to one int32 number, 0 before the kernel runs, which it counts with"
    FACTORS = "pointer to the bfloat16 columns of rows or of keys (`factors.py`), contiguous"
    DIFFERENCES = "pointer to a table of differences q - kv (`differences.py`), contiguous"
    MASK_BITS = "pointer to the int32 words of bits of masked tiles (`mask_bits.py`)"
    TABLE_STRIDE = "int32: rows of the run table from one batch or one head to the next"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a kernel, in the order of its signature.

    Attributes:
        name: its name in the source.
        role: what it is.
        of: the tensor, parameter, capture or size that it belongs to.
        index: a width or a dimension, as the role says.
        rows: rows of a descriptor's block: a number, or the name of a compile-time constant.
    """

    name: str
    role: Role
    of: str
    index: int = 0
    rows: int | str = 0


@dataclass(frozen=True)
class KernelSpec:
    """Everything that is fixed in the text of a kernel.

    Attributes:
        mask: the mask, None where every pair is allowed, or every pair of the tiles that the
            loops visit.
        score: the score modification, None where there is none. Its names and the mask's differ.
        closed_form: the loops as formulas; None where the plan is a table of runs. Of key
            positions for each row, or of rows for each key position in the kernel of dK and dV.
        head_dim: elements of a query and a key.
        value_dim: elements of a value.
        clamped: loads whose index can leave its tensor on a pair that is not allowed.
        wide: captures of 2**31 elements or more, whose offsets need 64 bits.
        grouped: several query heads share a key head.
        learned: names of the captures whose gradient the backward kernels add up.
        consumers: warpgroups of a Hopper kernel that have 64 rows each of a program's queries.
        products: what is added to the scores by one more matrix product, before the modification.
        tables: what the score loads from tables of q - kv.
        mask_bits: the mask of a tile is read from bits that were made with the table; `mask` is
            None then.
        skips: consumers of a kernel for Hopper skip tiles that have no pair for their own rows, or
            for their own keys in the backward one; the table says which.
        bounded: the score is so small that the softmax needs no maximum (`analysis/bounded.py`); in
            the forward kernel for Hopper.
    """

    mask: Program | None
    score: Program | None
    closed_form: ClosedForm | None
    head_dim: int
    value_dim: int
    clamped: frozenset[Expr] = frozenset()
    wide: frozenset[Capture] = frozenset()
    grouped: bool = True
    learned: frozenset[str] = frozenset()
    consumers: int = 2
    products: tuple[Product, ...] = ()
    tables: tuple[DifferenceTable, ...] = ()
    mask_bits: bool = False
    skips: bool = False
    bounded: bool = False


@dataclass(frozen=True)
class Kernel:
    """A generated kernel.

    Attributes:
        source: the text of a Python module.
        entry: the name of the kernel in it.
        arguments: its run-time arguments; the compile-time ones follow.
        constants: names of the compile-time arguments.
        language: what it is written in.
    """

    source: str
    entry: str
    arguments: tuple[Argument, ...]
    constants: tuple[str, ...] = ("BLOCK_M", "BLOCK_N")
    language: Language = Language.TRITON

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of the source: the key of every cache.

        Where the mod stands in the user's file is not in it: a line added above changes no kernel.
        """
        lines = (n for n in self.source.splitlines() if not n.startswith(SOURCE_NOTE))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def heavy_last(form: ClosedForm) -> bool:
    """Do later rows have more keys, as under a causal mask?"""
    return any(
        i.live_lower.op is Op.CONST and "q_last" in i.live_upper.variables for i in form.intervals
    )


def pieces(dim: int) -> tuple[tuple[int, int], ...]:
    """The head dimension in powers of two: (offset, width) of each piece, widest first.

    192 is 128 + 64 and not 256. No piece is narrower than 16, the least that a dot takes; a last
    piece reaches past the end where the tensor reads as zero.
    """
    found: list[tuple[int, int]] = []
    offset = 0
    while offset < dim:
        rest = dim - offset
        width = 16 if rest <= 16 else 1 << (rest.bit_length() - 1)
        found.append((offset, width))
        offset += width
    return tuple(found)
