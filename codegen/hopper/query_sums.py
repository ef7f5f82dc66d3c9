"""The sums of dQ in memory: how the backward kernels add to them, and the kernel that reads them.

The sums of a query tile are parts of 64 x 64, side by side, or one below the other where a tile has
64 columns. Each of two consumers adds to some: those of the left half come first, and of three
parts it has one. A part is 4096 floats, in the order in which an accumulator's registers lie: each
thread adds four floats at a time, each warp 512 bytes in a row; those of a wider accumulator are
its parts one after the other. All left halves stand one after the other, and so do all right ones.
From a left half to the next one there are as many bytes as its tile has in 16 bits, so that the
left halves may lie in the memory of dQ itself, where that is whole tiles: a tile's sums are read
before its dQ is written over them.

Tried instead: consumers of the backward kernel read the sums of some heads when all works of those
have ended, so that sums stay in the cache, and few are filled with zeros before. Microseconds with
this kernel and without (an H200, torch 2.11.0+cu130, triton 3.6.0, 2026-11-27): a window 838 and
782 to 833, packed causal documents 875 and 847 to 884, causal 2492 and 2493, full 4875 and 4830.
What it saved, some 90, works took longer: for reads, notes and counts at their ends. Stores that
cleared sums right behind the loads of them, before those had come, cost 170 more.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from ..kernel import Argument, Kernel, KernelSpec, Role
from ..module import write_module
from ..writer import Block
from .backward_tiles import Tiles, tile_columns, tiles_of

PART_FLOATS = 64 * 64
_ADD_QUERY_SUMS = '''\
@gluon.jit
def add_query_sums(query_sums, tile, part_order, values):
    """Add 64 by {columns} values to the half of a tile; registers are reordered, not moved."""
    values = values.reshape([4, 2, 8, {eights}, 4, 2]).permute((3, 0, 2, 4, 1, 5)).reshape([{floats}])
    place = gl.convert_layout(part_order, values.type.layout, assert_trivial=True)
    gl.atomic_add(query_sums + tile.to(gl.int64) * {unit} + place, values, sem="relaxed")
'''  # noqa: E501
SUMS = tuple(Argument(f"{half}_sums", Role.SUMS, half) for half in ("left", "right"))
SIZES_OF_RESULTS = ("first_head", "result_heads", "members", "member", "left_tiles")
_SIZES = (*SIZES_OF_RESULTS, "q_tiles")


def add_query_sums(tiles: Tiles) -> str:
    """The function that adds to sums; it counts them in units of `unit_of` floats."""
    columns, unit = tiles.columns, unit_of(tiles)
    return _ADD_QUERY_SUMS.format(
        columns=columns, eights=columns // 8, floats=64 * columns, unit=unit
    )


def unit_of(tiles: Tiles) -> int:
    """Floats that both halves of a tile are some times as far from the next tile's."""
    return gcd(tiles.left, tiles.right)


def part_order(tiles: Tiles) -> str:
    """The source of the place of a product's elements in a warpgroup's registers, in order."""
    floats = 64 * tiles.columns
    registers = "".join(f", [{n}]" for n in (512, 1024, 2048, 4096) if n < floats)
    lanes = "[[4], [8], [16], [32], [64]], [[128], [256]]"
    return f"gl.DistributedLinearLayout([[1], [2]{registers}], {lanes}, [], [{floats}])"


def generate_backward_sums(spec: KernelSpec) -> Kernel:
    """The kernel that makes dQ of the sums, times the scale; portable Triton.

    Args:
        spec: its head dimension is at most 256; of the score, only whether there is one counts.

    Returns:
        A kernel whose entry is `backward_sums` and whose grid is `q_tiles` programs for each head
        of dK from `first_head` on, of the query tiles of the kernel that added the sums up.
    """
    columns = tile_columns(spec.head_dim)
    arguments = (
        Argument("d_query_64", Role.DESCRIPTOR, "d_query", 64, 64),
        *SUMS,
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    factor = "scale" if spec.score is not None else "(scale * LN2)"
    body = Block(1)
    body.line("program = tl.program_id(0)")
    body.line("q_start = program % q_tiles * BLOCK_M")
    body.line("head_of_sums = program // q_tiles")
    body.line("flat_head = first_head + head_of_sums")
    body.line("b = flat_head // result_heads")
    body.line("h = flat_head % result_heads * members + member")
    body.line("left_tile = head_of_sums * left_tiles + program % q_tiles")
    parts = list(_parts(tiles_of(columns)))
    for name, sums, place in parts:
        values = f"tl.load({sums} + {place}).reshape([8, 4, 8, 4, 2, 2])"
        body.line(f"{name} = tl.permute({values}, (1, 4, 2, 0, 3, 5)).reshape([64, 64])")
    body.comment("The left sums may lie where dQ is to be: no thread writes before all have read.")
    body.line("tl.debug_barrier()")
    for number, (name, _, _) in enumerate(parts):
        value = f"({name} * {factor}).to(d_query_64.dtype).reshape([1, 1, 64, 64])"
        body.line(f"d_query_64.store([b, h, {_corner(64 * number, columns)}], {value})")
    plain = KernelSpec(None, spec.score, None, columns, columns)
    title = "Gradient of the queries from its sums"
    text = write_module(title, "backward_sums", plain, arguments, set(), body)
    return Kernel(text, "backward_sums", arguments)


def _parts(tiles: Tiles) -> Iterator[tuple[str, str, str]]:
    """Each part of a tile: its name, and the sources of the sums and of where it is in them."""
    for half, tile, floats in (
        ("left", "left_tile", tiles.left),
        ("right", "program", tiles.right),
    ):
        for n in range(floats // PART_FLOATS):
            before = f" + {n * PART_FLOATS}" if n else ""
            place = f"{tile}.to(tl.int64) * {floats}{before} + tl.arange(0, {PART_FLOATS})"
            yield f"{half}_{n}" if n else half, f"{half}_sums", place


def _corner(offset: int, columns: int) -> str:
    """The source of the first row and column of the part that begins at a multiple of 64."""
    if columns > 64:
        return f"q_start, {offset}"
    return f"q_start + {offset}, 0" if offset else "q_start, 0"
