"""How the kernels of attention read the mask of a masked tile: one bit a pair, made with the plan.

The words lie as `../mask_bits.py` says, in the order in which the producer goes through the masked
tiles of an outer tile, which come first. So a work begins at a tile of bits, which its notes say,
and goes on to the next one with each tile. The words of a thread, one for each 64 inner positions,
have the bits of its own scores: it loads them at once, and to look at a bit is a test of a constant
one. When words are loaded is for the file of each kernel. Who makes them is not known here.
"""

from __future__ import annotations

from ..kernel import Role
from ..loops import Axis
from ..lower import Lowering
from ..writer import Block
from .module import GROUP_ROWS, NO_SCORE
from .works import MASKED

BITS_TILE = "bits_tile"  # the tile of bits of a work's first tile

SPREAD = '''\
@gluon.jit
def spread(words, COLUMNS: gl.constexpr, SCORES: gl.constexpr):
    """The words of 64 rows by COLUMNS scores, each at all scores of its thread that it is of."""
    WORDS: gl.constexpr = COLUMNS // 64
    words = words.reshape([4, 8, 4, WORDS]).permute((0, 1, 3, 2))
    words = words.reshape([4, 1, 8, WORDS, 1, 4, 1])
    scores = gl.full([4, 2, 8, WORDS, 8, 4, 2], 0, gl.int32, words.type.layout)
    words, _ = gl.broadcast(words, scores)
    return gl.convert_layout(words.reshape([64, COLUMNS]), SCORES, assert_trivial=True)
'''

# For each score by itself, so that ptxas takes seven bits at a time into predicates.
KEEP = '''\
@gluon.jit
def keep(numbers, words, bit, other):
    """The numbers whose bit is set in their words, `other` for the rest."""
    text: gl.constexpr = """{
    .reg .pred set;
    .reg .b32 found;
    and.b32 found, $2, $3;
    setp.ne.b32 set, found, 0;
    selp.f32 $0, $1, $4, set;
    }"""
    given = [numbers, words, bit, other]
    return gl.inline_asm_elementwise(text, "=f,f,r,r,f", given, gl.float32, True, 1)
'''


def write_first_tile(block: Block, lowering: Lowering) -> None:
    """Write which tile of bits is that of the first tile of a row of the run table."""
    first = lowering.argument(Role.TABLE, "first_bits")
    block.line(f"{BITS_TILE} = gl.load({first} + row_of_runs)")


def write_layout(block: Block, axis: Axis) -> None:
    """Write the layout of words, where they lie in a tile of bits, and the bit of each score.

    Args:
        axis: the inner one, of the columns of the scores.
    """
    columns = axis.block
    block.line(f"WORDS: gl.constexpr = gl.BlockedLayout([{columns} // 64], [32], [4], [0])")
    block.line(f"word = gl.arange(0, 2 * {columns}, WORDS)")
    block.line(f"place = gl.arange(0, {GROUP_ROWS}, gl.SliceLayout(1, SCORES))[:, None] // 8 % 2")
    block.line(f"column = gl.arange(0, {columns}, gl.SliceLayout(0, SCORES))[None, :]")
    block.line("bit = 1 << (column % 64 // 8 * 4 + place * 2 + column % 2)")


def write_place(block: Block, axis: Axis, groups: int) -> None:
    """Write where the words of a work's first tile are.

    Args:
        groups: consumers that have 64 outer positions of a tile each.
    """
    of_group = f"({BITS_TILE} * {groups} + GROUP)" if groups > 1 else BITS_TILE
    block.line(f"words_at = {of_group} * (2 * {axis.block})")


def write_words(block: Block, masked: str, lowering: Lowering) -> None:
    """Write the loads of the words of a tile.

    Their addresses, kept from tile to tile, would take registers that the forward kernel has not.

    Args:
        masked: source of the bool that it is masked; "" for a work's first one, which always is.
    """
    place = f"{lowering.argument(Role.MASK_BITS, 'mask_words')} + words_at + word"
    block.line(f"words = gl.load({place}{masked and f', mask={masked}, other=0'})")


def write_next_words(block: Block, axis: Axis, groups: int, lowering: Lowering) -> None:
    """Write the loads of the words of the tile after the one at hand, whose own are needed no more.

    Loaded where they are needed, they came late: a consumer that skips tiles waited for them a
    fifth of its time. On an H200 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26), microseconds
    before and after: a neighbourhood in tiles of 8 x 8 193 and 179, TimeSformer in time 97 and 92,
    sparse fixed 1146 and 1068; where nothing is skipped also a window on a grid 372 and 384,
    strided 1388 and 1448, a neighbourhood row by row 393 and 402.
    """
    block.line(f"words_at += {2 * groups} * {axis.block}")
    write_words(block, f"after == {MASKED}", lowering)


def kept(axis: Axis) -> str:
    """The source of the scores of a masked tile, by `keep`; the ends of the axes are in the mask.

    On an H200 (torch 2.11.0+cu130, triton 3.6.0, 2026-11-26) a neighbourhood's forward pass took
    413 microseconds with a choice between tensors, 402 with this; its backward pass, where ptxas
    finds the predicates by itself, 1070 and 1081.
    """
    return f"keep(scores, spread(words, {axis.block}, SCORES), bit, {NO_SCORE})"


def allowed(axis: Axis) -> str:
    """The source of the mask of a masked tile; the ends of the axes are in it."""
    return f"(spread(words, {axis.block}, SCORES) & bit) != 0"
