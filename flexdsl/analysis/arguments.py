"""Checks of the arguments of a plan: sizes that make sense, a mask, which is not looked into."""

from __future__ import annotations

from collections.abc import Mapping

from flexdsl.errors import ArgumentError, KindError
from flexdsl.ir import Kind, Program

LONGEST = 2**31 - 2  # positions are int32 in kernels


def check_kind(mask: Program | None) -> None:
    """Raise `KindError` for a score modification."""
    if mask is not None and mask.kind is not Kind.MASK:
        raise KindError(
            f"{mask.name} is a score modification, and a plan is made of a mask",
            fix="pass a mask mod, which returns a bool",
        )


def check_sizes(sizes: Mapping[str, int], tile: tuple[int, int], q_offset: int) -> None:
    """Raise `ArgumentError` unless lengths, tile and offset are numbers that make sense.

    Args:
        sizes: by the name of the argument; q_len and kv_len are among them.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ArgumentError(f"{name} is {size!r}", fix="a whole number, 0 or more")
    pair = isinstance(tile, tuple | list) and len(tile) == 2
    if not pair or any(isinstance(t, bool) or not isinstance(t, int) or t < 1 for t in tile):
        raise ArgumentError(f"tile is {tile!r}", fix="two positive whole numbers: (128, 128)")
    if isinstance(q_offset, bool) or not isinstance(q_offset, int) or q_offset < 0:
        raise ArgumentError(
            f"q_offset is {q_offset!r}",
            why="it is the position of the first query row, and positions start at 0",
            fix="a whole number, 0 or more",
        )
    if max(sizes["q_len"] + q_offset, sizes["kv_len"]) > LONGEST:
        raise ArgumentError(
            f"a sequence ends at position {max(sizes['q_len'] + q_offset, sizes['kv_len'])}",
            why="positions are 32-bit integers in kernels",
            fix=f"lengths of at most {LONGEST}",
        )
