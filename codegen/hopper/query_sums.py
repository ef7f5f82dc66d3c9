"""The sums of dQ in memory: how the backward kernel adds to them, and the kernel that reads them.

A query tile has two halves of 64 x 64 sums: halves of its 128 columns, or of the rows of a tile of
64 columns. A half is 4096 floats, in the order in which an accumulator's registers lie: each thread
adds four floats at a time, each warp 512 bytes in a row. All left halves stand one after the other,
and so do all right ones. A half has as many bytes as its tile has in 16 bits, so that the left
halves may lie in the memory of dQ itself, where that is whole tiles: a tile's sums are read before
its dQ is written over them.
"""

from __future__ import annotations

from ..kernel import Argument, Kernel, KernelSpec, Role
from ..module import write_module
from ..writer import Block
from .backward_tiles import tile_columns

# Place of a half's elements in the registers of a warpgroup after `add_query_sums` reorders them.
PART = (
    "gl.DistributedLinearLayout([[1], [2], [512], [1024], [2048]],"
    " [[4], [8], [16], [32], [64]], [[128], [256]], [], [4096])"
)
ADD_QUERY_SUMS = '''\
@gluon.jit
def add_query_sums(query_sums, tile, part_order, values):
    """Add 64 by 64 values to the half of a tile; registers are reordered, not moved."""
    values = values.reshape([4, 2, 8, 8, 4, 2]).permute((3, 0, 2, 4, 1, 5)).reshape([4096])
    place = gl.convert_layout(part_order, values.type.layout, assert_trivial=True)
    gl.atomic_add(query_sums + tile.to(gl.int64) * 4096 + place, values, sem="relaxed")
'''
SUMS = tuple(Argument(f"{half}_sums", Role.SUMS, half) for half in ("left", "right"))
_PLACE_OF_RIGHT = {64: "q_start + 64, 0", 128: "q_start, 64"}
SIZES_OF_RESULTS = ("first_head", "result_heads", "members", "member", "left_tiles")
_SIZES = (*SIZES_OF_RESULTS, "q_tiles")


def generate_backward_sums(spec: KernelSpec) -> Kernel:
    """The kernel that makes dQ of the sums, times the scale; portable Triton.

    Args:
        spec: its head dimension is at most 128; of the score, only whether there is one counts.

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
    for half, tile in (("left", "left_tile"), ("right", "program")):
        place = f"{tile}.to(tl.int64) * 4096 + tl.arange(0, 4096)"
        values = f"tl.load({half}_sums + {place}).reshape([8, 4, 8, 4, 2, 2])"
        body.line(f"{half} = tl.permute({values}, (1, 4, 2, 0, 3, 5)).reshape([64, 64])")
    body.comment("The left sums may lie where dQ is to be: no thread writes before all have read.")
    body.line("tl.debug_barrier()")
    for half, at in (("left", "q_start, 0"), ("right", _PLACE_OF_RIGHT[columns])):
        value = f"({half} * {factor}).to(d_query_64.dtype).reshape([1, 1, 64, 64])"
        body.line(f"d_query_64.store([b, h, {at}], {value})")
    plain = KernelSpec(None, spec.score, None, columns, columns)
    title = "Gradient of the queries from its sums"
    text = write_module(title, "backward_sums", plain, arguments, set(), body)
    return Kernel(text, "backward_sums", arguments)
