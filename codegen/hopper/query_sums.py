"""The sums of dQ in memory: how the backward kernel adds to them, and the kernel that reads them.

The sums of 64 x 64 elements are a part of 4096 floats, in the order in which an accumulator's
registers lie: each thread adds four floats at a time, each warp 512 bytes in a row. A query tile is
two parts, halves of its columns at D 128 and halves of its rows at D 64.
"""

from __future__ import annotations

from ..kernel import Argument, Kernel, KernelSpec, Role
from ..module import write_module
from ..writer import Block

# Place of a part's elements in the registers of a warpgroup after `add_query_sums` reorders them.
PART = (
    "gl.DistributedLinearLayout([[1], [2], [512], [1024], [2048]],"
    " [[4], [8], [16], [32], [64]], [[128], [256]], [], [4096])"
)
ADD_QUERY_SUMS = '''\
@gluon.jit
def add_query_sums(query_sums, part, part_order, tile):
    """Add a tile of 64 by 64 to a part of the sums; its registers are reordered, not moved."""
    values = tile.reshape([4, 2, 8, 8, 4, 2]).permute((3, 0, 2, 4, 1, 5)).reshape([4096])
    place = gl.convert_layout(part_order, values.type.layout, assert_trivial=True)
    gl.atomic_add(query_sums + part.to(gl.int64) * 4096 + place, values, sem="relaxed")
'''
_SIZES = ("heads", "q_tiles")


def generate_backward_sums(spec: KernelSpec) -> Kernel:
    """The kernel that makes dQ of the sums, times the scale; portable Triton.

    Args:
        spec: its head dimension is 64 or 128; of the score, only whether there is one counts.

    Returns:
        A kernel whose entry is `backward_sums` and whose grid is `q_tiles * batch * heads`, of the
        query tiles of the kernel that added the sums up.
    """
    dim = spec.head_dim
    arguments = (
        Argument("d_query_64", Role.DESCRIPTOR, "d_query", 64, 64),
        Argument("query_sums", Role.SUMS, "d_query"),
        Argument("scale", Role.SCALE, "scale"),
        *(Argument(s, Role.SIZE, s) for s in _SIZES),
    )
    factor = "scale" if spec.score is not None else "(scale * LN2)"
    body = Block(1)
    body.line("program = tl.program_id(0)")
    body.line("q_start = program % q_tiles * BLOCK_M")
    body.line("b = program // q_tiles // heads")
    body.line("h = program // q_tiles % heads")
    with body.indented("for half in tl.static_range(2):") as half:
        half.line("part = query_sums + (program * 2 + half).to(tl.int64) * 4096")
        half.line("values = tl.load(part + tl.arange(0, 4096)).reshape([8, 4, 8, 4, 2, 2])")
        half.line(f"tile = tl.permute(values, (1, 4, 2, 0, 3, 5)).reshape([64, 64]) * {factor}")
        half.line("tile = tile.to(d_query_64.dtype).reshape([1, 1, 64, 64])")
        at = "q_start, half * 64" if dim == 128 else "q_start + half * 64, 0"
        half.line(f"d_query_64.store([b, h, {at}], tile)")
    plain = KernelSpec(None, spec.score, None, dim, dim)
    title = "Gradient of the queries from its sums"
    text = write_module(title, "backward_sums", plain, arguments, set(), body)
    return Kernel(text, "backward_sums", arguments)
